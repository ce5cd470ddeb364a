package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Exposed returns the ports at which a qube has devices of a class for others
// to use, ascending.
func (c *Client) Exposed(ctx context.Context, vm, class string) ([]string, error) {
	if err := checkWord("device class", class); err != nil {
		return nil, err
	}
	return parsed(ctx, c, request{dest: vm, method: "admin.vm.device." + class + ".Available"}, parseExposed)
}

// parseExposed reads the answer of .Available, of which only the ports are
// wanted:
//
//	PORT:IDENTITY key='value' ...    (R4.3)
//	PORT key=value ...               (R4.2)
func parseExposed(untrusted []byte) ([]string, error) {
	list, err := lines(untrusted)
	if err != nil {
		return nil, err
	}
	ports := make([]string, 0, len(list))
	for _, line := range list {
		device, _, _ := strings.Cut(line, " ")
		port, _, _ := strings.Cut(device, ":")
		if !isToken(port, maxToken) {
			return nil, fmt.Errorf("%w: %q is no device", ErrAnswer, cut(line))
		}
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}
