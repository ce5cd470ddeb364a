package cli

import (
	"context"

	"pinion/dom0/internal/format"
	"pinion/protocol"
)

// versions is the document of "pinion version --json".
type versions struct {
	Program  string `json:"program"`
	Protocol int    `json:"protocol"`
	Format   int    `json:"format"`
}

func runVersion(_ context.Context, env *Env) error {
	v := versions{Program: env.Version, Protocol: protocol.Version, Format: format.Version}
	env.UI.Printf("pinion %s", v.Program)
	env.UI.Printf("protocol %d, archive format %d", v.Protocol, v.Format)
	return env.UI.Result(v)
}
