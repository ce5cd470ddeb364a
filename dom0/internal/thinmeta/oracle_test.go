package thinmeta

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"pinion/dom0/internal/testenv"
)

const toolsPackage = "thin-provisioning-tools"

// seeded returns a source of random numbers, another one at each run unless
// PINION_TEST_SEED is set to what an earlier run has logged.
func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("PINION_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("PINION_TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// scratch is a directory in memory, where there is one.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "thinmeta")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func save(t testing.TB, raw []byte) string {
	t.Helper()
	path := filepath.Join(scratch(t), "metadata")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs a tool, with a test that may be over before.
func output(ctx context.Context, tool string, args ...string) (string, error) {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", tool, strings.Join(args, " "), err, &said)
	}
	return string(out), nil
}

// attribute returns a number that a line of XML has.
func attribute(line, name string) (uint64, error) {
	_, rest, ok := strings.Cut(line, " "+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	if !ok {
		return 0, fmt.Errorf("no %s in %q", name, line)
	}
	return strconv.ParseUint(value, 10, 64)
}

// toolDiff asks thin_delta. What is the same is left out, and runs that go on
// are joined, as the tool also ends them where data blocks are not in a row.
func toolDiff(ctx context.Context, tool, path string, held, left, right uint64) ([]Change, error) {
	args := []string{"--snap1", fmt.Sprint(left), "--snap2", fmt.Sprint(right), path}
	if held != 0 {
		args = append([]string{fmt.Sprintf("--metadata-snap=%d", held)}, args...)
	}
	out, err := output(ctx, tool, args...)
	if err != nil {
		return nil, err
	}
	var all []Change
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "<"), " ")
		kind := map[string]Kind{"left_only": OnlyLeft, "right_only": OnlyRight, "different": Different}[name]
		if kind == 0 {
			if name != "same" && name != "superblock" && name != "diff" && !strings.HasPrefix(name, "/") {
				return nil, fmt.Errorf("thin_delta says %q", line)
			}
			continue
		}
		first, err := attribute(line, "begin")
		if err != nil {
			return nil, err
		}
		count, err := attribute(line, "length")
		if err != nil {
			return nil, err
		}
		if n := len(all) - 1; n >= 0 && all[n].Kind == kind && all[n].First+all[n].Count == first {
			all[n].Count += count
		} else {
			all = append(all, Change{Run{first, count}, kind})
		}
	}
	return all, lines.Err()
}

// tools is a group to run tools in, many at once: each mostly waits.
func tools(t testing.TB) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(32)
	return g, ctx
}

// checkPool has thin_check look at an image.
func checkPool(ctx context.Context, g *errgroup.Group, tool, path string, args ...string) {
	g.Go(func() error {
		_, err := output(ctx, tool, append(args, path)...)
		return err
	})
}

// dumped is what thin_dump says that each device maps: block to mapping. It
// looks at the metadata snapshot at held, if that isn't 0.
func dumped(ctx context.Context, tool, path string, held uint64) (map[uint64]map[uint64]uint64, error) {
	args := []string{path}
	if held != 0 {
		args = []string{fmt.Sprintf("--metadata-snap=%d", held), path}
	}
	out, err := output(ctx, tool, args...)
	if err != nil {
		return nil, err
	}
	all := map[uint64]map[uint64]uint64{}
	var device map[uint64]uint64
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		number := func(name string) uint64 {
			n, bad := attribute(line, name)
			err = errors.Join(err, bad)
			return n
		}
		switch {
		case strings.HasPrefix(line, "<device "):
			device = map[uint64]uint64{}
			all[number("dev_id")] = device
		case strings.HasPrefix(line, "<single_mapping "):
			device[number("origin_block")] = number("data_block")<<timeBits | number("time")
		case strings.HasPrefix(line, "<range_mapping "):
			for i := range number("length") {
				device[number("origin_begin")+i] = (number("data_begin")+i)<<timeBits | number("time")
			}
		}
	}
	return all, err
}

// A pools compares devices of pools with what they map, and some of them with
// what the tools say.
type pools struct {
	t                  *testing.T
	rng                *rand.Rand
	check, dump, delta string
	g                  *errgroup.Group
	ctx                context.Context
	compared, asked    int
}

func newPools(t *testing.T) *pools {
	p := &pools{t: t, rng: seeded(t)}
	p.check = testenv.Tool(t, "thin_check", toolsPackage)
	p.dump = testenv.Tool(t, "thin_dump", toolsPackage)
	p.delta = testenv.Tool(t, "thin_delta", toolsPackage)
	p.g, p.ctx = tools(t)
	return p
}

// wait ends the test, when all tools have said what they have to say.
func (p *pools) wait() {
	p.t.Helper()
	if err := p.g.Wait(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Logf("%d pairs of devices compared, %d of them by thin_delta as well", p.compared, p.asked)
}

// sound has the tools agree that the pool in a file is as pools are.
func (p *pools) sound(path string, held bool, devices map[uint64]map[uint64]uint64) {
	checkPool(p.ctx, p.g, p.check, path)
	if held {
		checkPool(p.ctx, p.g, p.check, path, "--metadata-snap")
	}
	p.g.Go(func() error {
		got, err := dumped(p.ctx, p.dump, path, 0)
		if err == nil && !maps.EqualFunc(got, devices, maps.Equal) {
			err = fmt.Errorf("thin_dump says %v, want %v", got, devices)
		}
		return err
	})
}

// pairs compares all pairs of devices of the pool in a file, asks of which
// with thin_delta.
func (p *pools) pairs(path string, m *Metadata, devices map[uint64]map[uint64]uint64, asks int) {
	p.t.Helper()
	ids := slices.Sorted(maps.Keys(devices))
	order := p.rng.Perm(len(ids) * len(ids))
	for i, pair := range order {
		left, right := ids[pair/len(ids)], ids[pair%len(ids)]
		want := plainDiff(devices[left], devices[right])
		got, _ := diffOf(p.t, m, deviceOf(p.t, m, left), deviceOf(p.t, m, right))
		if !slices.Equal(got, want) {
			p.t.Fatalf("devices %d and %d: got %v, want %v", left, right, got, want)
		}
		p.compared++
		if i >= asks {
			continue
		}
		p.asked++
		p.g.Go(func() error {
			said, err := toolDiff(p.ctx, p.delta, path, m.Superblock().Block, left, right)
			if err == nil && !slices.Equal(got, said) {
				err = fmt.Errorf("devices %d and %d: got %v, thin_delta says %v", left, right, got, said)
			}
			return err
		})
	}
}
