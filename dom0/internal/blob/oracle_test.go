package blob_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pinion/dom0/internal/blob"
	"pinion/dom0/internal/format"
)

// The length oracle: somebody writes a guess beside a secret, in the same chunk,
// and sees how long the chunk is that the next backup sends. A right guess repeats
// the secret, which compresses better. These tests are that attack, as strong as it
// can be made with our compressor, and measure what it learns: before, from the
// length of the content alone, and after, from the length with its padding. The
// figures stand in docs/threat-model.md.
//
// The attacker knows all of the chunk but the secret. He tests one guess in a backup:
// the default level of compression finds only the last of several.

const (
	oracleChunk = 128 << 10
	oracleLabel = "password: " // stands before the secret, and before each guess
	letters     = "abcdefghijklmnopqrstuvwxyz"
	digits      = "0123456789"
)

// An oracle is a chunk with a secret in it.
type oracle struct {
	t      testing.TB
	s      *blob.Sealer
	random *rand.Rand
	// front, middle and back are what stands around the guess and the secret.
	front, middle, back []byte
	secret              string
	more                int // content is that many bytes longer
}

func newOracle(t testing.TB, secret string, seed uint64) *oracle {
	r := rand.New(rand.NewPCG(seed, 1))
	text := prose(r, oracleChunk)
	return &oracle{
		t: t, s: sealer(t, fastest, oracleChunk), random: r, secret: secret,
		front: text[:60<<10], middle: text[60<<10 : 80<<10], back: text[80<<10:],
	}
}

// prose is n bytes that are to a compressor what people write: 3,000 words, some
// of them often, and numbers.
func prose(r *rand.Rand, n int) []byte {
	words := make([]string, 3000)
	for i := range words {
		b := make([]byte, 2+r.IntN(9))
		for j := range b {
			b[j] = "etaoinshrdlucmfwypvbgkjqxz"[min(r.IntN(26), r.IntN(26))]
		}
		words[i] = string(b)
	}
	var b bytes.Buffer
	for b.Len() < n {
		switch r.IntN(15) {
		case 0:
			fmt.Fprintf(&b, "%d ", r.IntN(100_000))
		case 1:
			b.WriteString("again.\n")
		}
		b.WriteString(words[int(3000*r.Float64()*r.Float64()*r.Float64())] + " ")
	}
	return b.Bytes()[:n]
}

// zone is how many bytes of the chunk are the attacker's, beside the guess.
const zone = 3 << 10

// filler is what he writes there, never twice the same: n random letters as often as
// they are in the text, and a repetition. The more letters, the longer the content.
func (o *oracle) filler(n int) []byte {
	b := bytes.Repeat([]byte{'.'}, zone)
	for i := range n {
		b[i] = o.front[o.random.IntN(len(o.front))]
	}
	return b
}

// chunk is the chunk with a guess.
func (o *oracle) chunk(filler []byte, guess string) []byte {
	mine := slices.Concat(filler, []byte(o.around(guess)))
	c := slices.Concat(o.front, mine, o.middle, []byte("\n"+oracleLabel+o.secret+"\n"), o.back)
	return c[:oracleChunk]
}

// content is what a chunk is compressed to, in bytes: what was seen before there
// was a padding. A session isn't padded, and compressed like a chunk.
func (o *oracle) content(chunk []byte) int {
	return len(o.s.Seal(nil, format.BlobSession, 0, format.BlobID{}, chunk)) - format.BlobOverhead + o.more
}

// steps is what is seen of a chunk now: the length with its padding, in steps.
func (o *oracle) steps(chunk []byte) int {
	id := o.s.ID(format.BlobChunk, 0, chunk)
	n := len(o.s.Seal(nil, format.BlobChunk, 0, id, chunk)) - format.BlobOverhead
	if n%padStep != 0 {
		o.t.Fatalf("a compressed chunk has %d bytes", n)
	}
	return n / padStep
}

const padStep = 512

// stepLaw is the probability that content of n bytes has that many steps with its
// padding, over all ids.
func stepLaw(n, steps int) float64 {
	few := (n + padStep - 1) / padStep
	over := float64((n+padStep-1)%padStep) / padStep // r that lead a step further
	switch steps {
	case few:
		return 1 - over
	case few + 1:
		return over
	}
	return 0
}

// around is what stands around a guess: the label, and if the guess is of the whole
// secret a little of what follows that, so that one match takes the place of two.
// Of several ways to write a guess this one gained most.
func (o *oracle) around(guess string) string {
	if len(guess) == len(o.secret) {
		guess += "\n" + string(o.back[:4])
	}
	return oracleLabel + guess + "#"
}

// wrong is a guess of n letters that isn't right.
func (o *oracle) wrong(alphabet string, n int) string {
	b := make([]byte, n)
	for string(b) == o.secret[:n] || b[0] == 0 {
		for i := range b {
			b[i] = alphabet[o.random.IntN(len(alphabet))]
		}
	}
	return string(b)
}

// gains is how many bytes a right guess of the first letters gains over wrong ones,
// in n chunks, sorted.
func (o *oracle) gains(alphabet string, first, n int) []int {
	all := make([]int, n)
	for i := range all {
		f := o.filler(24)
		all[i] = o.content(o.chunk(f, o.wrong(alphabet, first))) - o.content(o.chunk(f, o.secret[:first]))
	}
	slices.Sort(all)
	return all
}

// kinds are secrets of little entropy, and how much of them is guessed at once.
var kinds = []struct {
	name, alphabet, secret string
	first                  int     // letters
	guesses                float64 // how many there are
	least, most            int     // bounds of the median gain
}{
	{"a letter of two", letters, "qz", 1, 26, 0, 2},
	{"two letters at once", letters, "qz", 2, 676, 2, 12},
	{"two digits of a PIN", digits, "7391", 2, 100, 0, 3},
	{"a PIN at once", digits, "7391", 4, 10_000, 2, 12},
	{"a phrase out of 64", letters, "correcthorsebatterystaple", 25, 64, 10, 30},
}

// TestOracleGain measures what right guesses gain, and what a backup tells by it.
func TestOracleGain(t *testing.T) {
	for i, k := range kinds {
		all := newOracle(t, k.secret, uint64(i)).gains(k.alphabet, k.first, 41)
		g := all[len(all)/2]
		t.Logf("%-20s gains %d bytes (%d to %d); bits a backup: %.4f, now %.6f with k = 1, %.6f with 4, %.6f with 16",
			k.name, g, all[4], all[len(all)-5], bitsOf(k.guesses, 1), drops(k.guesses, g, 1), drops(k.guesses, g, 4), drops(k.guesses, g, 16))
		if g < k.least || g > k.most {
			t.Errorf("%s: a right guess gains %d bytes; %d to %d were measured before", k.name, g, k.least, k.most)
		}
	}
}

// bitsOf is what one test of one guess out of n tells, in bits, if the right guess
// shows with probability p and a wrong one never.
func bitsOf(n, p float64) float64 {
	h := func(p float64) float64 {
		if p <= 0 || p >= 1 {
			return 0
		}
		return -p*math.Log2(p) - (1-p)*math.Log2(1-p)
	}
	return h(p/n) - h(p)/n
}

// drops is what a backup of k chunks tells now of a guess that gains g bytes, at
// the best alignment: one byte above a step, where only the right guess ever has a
// step less.
func drops(n float64, g, k int) float64 {
	return bitsOf(n, 1-math.Pow(1-float64(g)/padStep, float64(k)))
}

// TestOracleAlignment: at that alignment a wrong guess never has a step less, a
// right one has in g of 512 ids; and the law is that of the real padding.
func TestOracleAlignment(t *testing.T) {
	const c = 90*padStep + 1
	for g := 1; g <= 16; g++ {
		if p := stepLaw(c-g, 90); p != float64(g)/padStep || stepLaw(c, 90) != 0 || stepLaw(c, 91) != 1 {
			t.Errorf("a gain of %d bytes shows in %v of all ids", g, p)
		}
	}
	k, r := keys(t), rand.New(rand.NewPCG(3, 1))
	seen := map[int]int{}
	for range 1 << 14 {
		seen[(c-64+k.PadBits(randomID(r))+padStep-1)/padStep]++
	}
	if n := seen[90]; n < 1<<14/8*9/10 || n > 1<<14/8*11/10 || len(seen) != 2 {
		t.Errorf("a gain of 64 bytes shows in %v of 16384 ids", seen)
	}
}

func randomID(r *rand.Rand) (id format.BlobID) {
	for i := 0; i < len(id); i += 8 {
		binary.LittleEndian.PutUint64(id[i:], r.Uint64())
	}
	return id
}

// TestOracleHiding: who hides packs, so that chunks are sent again, sees the same
// lengths again.
func TestOracleHiding(t *testing.T) {
	o := newOracle(t, "qz", 9)
	for range 8 {
		c := o.chunk(o.filler(24), "q")
		was := o.steps(c)
		for range 8 {
			o.s = sealer(t, fastest, oracleChunk) // another run
			if n := o.steps(c); n != was {
				t.Fatalf("a chunk had %d steps, and %d when it was sent again", was, n)
			}
		}
	}
}

// guesses are all secrets of n letters, in an order of the attacker's.
func (o *oracle) guesses(alphabet string, n int) []string {
	all := []string{""}
	for range n {
		var longer []string
		for _, g := range all {
			for _, letter := range alphabet {
				longer = append(longer, g+string(letter))
			}
		}
		all = longer
	}
	o.random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// aligned is a new filler with which the content of a wrong guess is so many bytes
// longer than whole steps: a right one shows best where that is 1 byte, and some more
// where wrong guesses differ among themselves. The attacker would have to find that
// out; here he is told.
func (o *oracle) aligned(wrong string, above int) []byte {
	const perLetter = 0.55 // bytes of content
	f, letters := o.filler(zone/2), zone/2
	spare := o.filler(zone)
	for range 12 {
		more := (padStep + above - o.content(o.chunk(f, wrong))%padStep) % padStep
		if more == 0 {
			break
		}
		if more > padStep/2 {
			more -= padStep
		}
		n := int(math.Round(float64(more) / perLetter))
		if n == 0 {
			n = 1
		}
		copy(f[letters:max(letters, letters+n)], spare[letters:])
		for i := letters + n; i < letters; i++ {
			f[i] = '.'
		}
		letters += n
	}
	return f
}

// A scan tests guesses, a backup each, and those with which the chunk was shorter
// than expected in other chunks again.
type scan struct {
	backups int
	found   string // the guess with which they were shortest
	shorter int    // guesses that were tested again
}

// scanned is what a scan of those guesses finds, where a right guess gains so much.
// see tells of the chunk by how much it is shorter than is due, if the guess is wrong:
// the attacker compresses it with another secret to know that, and is told by how much
// the secrets themselves differ.
func (o *oracle) scanned(guesses []string, gain int, see func(due int, chunk []byte) int) (s scan) {
	own := *o
	own.secret = guesses[0] // for all that he knows
	var differ []int
	for _, guess := range guesses[1:10] {
		f := o.filler(zone / 2)
		differ = append(differ, o.content(o.chunk(f, guess))-own.content(own.chunk(f, guess)))
	}
	slices.Sort(differ)
	own.more = differ[len(differ)/2]
	test := func(f []byte, guess string) int {
		s.backups++
		return see(own.content(own.chunk(f, guess)), o.chunk(f, guess))
	}
	f := own.aligned(guesses[1], 1)
	most := 0
	for _, guess := range guesses[1:] {
		if test(f, guess) < gain {
			continue
		}
		s.shorter++
		sum := 0
		for range 8 {
			sum += test(own.aligned(guess, 1), guess)
		}
		if sum >= 8*gain && sum > most {
			s.found, most = guess, sum
		}
	}
	return s
}

var oracleAll = flag.Bool("oracle", false, "guess as often as docs/threat-model.md says, four times as long")

// TestOracleBeforeAndAfter: without a padding two letters, and a PIN, are found with
// little more than a backup for each guess; with it, they aren't.
func TestOracleBeforeAndAfter(t *testing.T) {
	for _, c := range []struct {
		alphabet, secret string
		most             int // guesses: of the 676, and 10,000, some that it is among
		gain             int // at least, bytes
	}{{letters, "qz", 400, 3}, {digits, "7391", 300, 3}} {
		o := newOracle(t, c.secret, 1)
		guesses := o.guesses(c.alphabet, len(c.secret))
		if !*oracleAll {
			c.most /= 4
		}
		if at := slices.Index(guesses, c.secret); at >= c.most {
			guesses[at], guesses[10+at%(c.most-10)] = guesses[10+at%(c.most-10)], guesses[at]
		}
		before := o.scanned(guesses[:c.most], c.gain, func(due int, chunk []byte) int { return due - o.content(chunk) })
		if before.found != c.secret || before.backups > 2*c.most {
			t.Errorf("without a padding %q was found for %q after %d backups", before.found, c.secret, before.backups)
		}
		after := o.scanned(guesses[:c.most], 1, func(due int, chunk []byte) int { return (due+padStep-1)/padStep - o.steps(chunk) })
		if after.found != "" {
			t.Errorf("with a padding %q was found for %q after %d backups", after.found, c.secret, after.backups)
		}
		t.Logf("%q: found after %d backups; with a padding not after %d, %d guesses tested again", c.secret, before.backups, after.backups, after.shorter)
	}
}

// TestOracleInTheEnd: padding makes the attack long, but doesn't end it. A phrase
// of which four are possible, and which gains many bytes, is found.
func TestOracleInTheEnd(t *testing.T) {
	phrases := []string{"correcthorsebatterystaple", "tendollarsforthemilkman00", "nobodyexpectsinquisitions", "wheredowegofromherebernie"}
	o := newOracle(t, phrases[2], 5)
	backups := 0
	for range 120 {
		f := o.aligned(phrases[0], 4)
		wrong := o.content(o.chunk(f, phrases[0]))/padStep + 1
		for _, guess := range phrases {
			backups++
			if o.steps(o.chunk(f, guess)) >= wrong {
				continue
			}
			if guess != phrases[2] {
				t.Errorf("%q was found", guess)
			}
			t.Logf("found after %d backups", backups)
			if backups < 8 {
				t.Errorf("found after %d backups", backups)
			}
			return
		}
	}
	t.Errorf("not found in %d backups", backups)
}

// TestOracleCost measures how many backups test one guess so that it is found with
// 90 % probability if it is right, against the padding of real ids: 512/g/k, times
// the logarithm of 10.
func TestOracleCost(t *testing.T) {
	const trials = 120
	keys, r := keys(t), rand.New(rand.NewPCG(4, 1))
	for _, g := range []int{1, 2, 4, 10} {
		for _, k := range []int{1, 4, 16} {
			needed := make([]int, trials)
			for i := range needed {
				for shown := false; !shown; {
					needed[i]++
					for range k { // chunks
						shown = shown || keys.PadBits(randomID(r)) < g // a step less
					}
				}
			}
			slices.Sort(needed)
			n, rule := needed[trials*9/10], math.Log(10)*padStep/float64(g*k)
			t.Logf("g = %2d, k = %2d: found with 90 %% in %d backups; 512/g/k is %.0f", g, k, n, padStep/float64(g*k))
			if f := float64(n); f < rule/1.6-1 || f > rule*1.6+1 {
				t.Errorf("g = %d, k = %d: found in %d backups, %.0f were due", g, k, n, rule)
			}
		}
	}
}
