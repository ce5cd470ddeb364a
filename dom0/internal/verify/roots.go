package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinion/dom0/internal/store"
	"pinion/protocol"
)

// roots looks at all roots of the store. A damaged one below the one that is used
// can't be mended; a repair says that it is gone, and from then on it is no damage
// that anything could be done about.
func (c *check) roots(ctx context.Context) error {
	bad, err := c.a.OtherRoots(ctx)
	if err != nil {
		return err
	}
	givenUp, err := c.a.GivenUp()
	if err != nil {
		return err
	}
	var older []uint64
	above, said := map[string]bool{}, 0
	for _, b := range bad {
		mended := false
		if c.o.Repair {
			if mended, err = c.a.MendRoot(ctx, b.Name); err != nil {
				return err
			}
		}
		switch {
		case mended:
			c.restored(b.Name)
		case b.Unmade:
			c.o.Warn(fmt.Sprintf("%v: a command that is committing, or was killed, didn't make it; the next one that writes does", b.Err))
		case errors.Is(b.Err, store.ErrUnreadable): // it may be whole
			c.broken = append(c.broken, b.Err)
		case c.above[b.Name]: // what was committed in it isn't here
			c.broken = append(c.broken, b.Err)
		case generationOf(b.Name) < c.a.Root().Generation && (c.o.Repair || c.after || slices.Contains(givenUp, generationOf(b.Name))):
			if said++; said <= maxOlderSaid {
				c.o.Warn(fmt.Sprintf("%v; an older state of the archive may not be there any more", b.Err))
			}
			older = append(older, generationOf(b.Name))
		default:
			c.broken = append(c.broken, b.Err)
			if generationOf(b.Name) > c.a.Root().Generation {
				above[b.Name] = true
			}
		}
	}
	if !c.after {
		c.above = above
	}
	if said > maxOlderSaid {
		c.o.Warn(fmt.Sprintf("and %d more older roots are damaged", said-maxOlderSaid))
	}
	if !c.o.Repair && !c.after {
		return nil
	}
	slices.Sort(older)
	return c.a.GiveUp(slices.Compact(older))
}

// maxOlderSaid is how many damaged older roots are named.
const maxOlderSaid = 10

// generationOf is the generation that the name of a root says.
func generationOf(name string) uint64 {
	generation, head := protocol.ParseHead(name)
	if !head {
		generation, _, _ = protocol.ParseRootName(name)
	}
	return generation
}
