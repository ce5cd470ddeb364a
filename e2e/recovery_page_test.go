package e2e

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	recoveryPage = "docs/recovery-format.md"
	formatPage   = "docs/format.md"
)

// TestRecoveryStepsArePageAndScript: each step of the page is a function of the
// script, by the same words.
func TestRecoveryStepsArePageAndScript(t *testing.T) {
	t.Parallel()
	steps := func(text, pattern string) (found []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			found = append(found, m[1])
		}
		return found
	}
	script := page(t, "e2e/"+recoverScript)
	onPage, inScript := steps(page(t, recoveryPage), `(?m)^## (Step .*)$`), steps(script, `(?m)^ +"""(Step .*)"""$`)
	for i, step := range onPage {
		if !strings.HasPrefix(step, fmt.Sprintf("Step %d: ", i+1)) {
			t.Errorf("%q is number %d", step, i+1)
		}
	}
	slices.Sort(onPage)
	slices.Sort(inScript)
	if len(onPage) < 10 || !slices.Equal(onPage, inScript) {
		t.Errorf("the page has the steps\n%s\nthe script\n%s", strings.Join(onPage, "\n"), strings.Join(inScript, "\n"))
	}
	for _, option := range steps(script, `add_argument\("(--[a-z-]+)"`) {
		if !strings.Contains(page(t, recoveryPage), option+" ") && !strings.Contains(page(t, recoveryPage), option+"`") {
			t.Errorf("the page doesn't say what the script's %s is for", option)
		}
	}
	// Every HKDF info, and the text of the checksum, of the one is in the other.
	infos := func(text, pattern string) []string {
		found := steps(text, pattern)
		slices.Sort(found)
		return slices.Compact(found)
	}
	want := infos(page(t, recoveryPage), "`pinion 2 ([a-z ]+)`")
	got := infos(script, `b"pinion 2 ([a-z ]+)"`)
	got = slices.DeleteFunc(got, func(info string) bool { return info == "lock note" }) // a vector, and no step
	if len(got) < 10 || !slices.Equal(got, want) {
		t.Errorf("the script derives keys for %q, the page for %q", got, want)
	}
}

// A mdTable is a table of a page, by rows and cells, without its rule.
type mdTable [][]string

// mdTables are the tables of a page by the heading above them, or by the
// comment in front of them if comment is set.
func mdTables(text, comment string) map[string][]mdTable {
	all, name, open := map[string][]mdTable{}, "", false
	for _, line := range strings.Split(text, "\n") {
		heading, isHeading := strings.CutPrefix(strings.TrimLeft(line, "#"), " ")
		mark, isMark := strings.CutPrefix(line, "<!-- "+comment+": ")
		switch {
		case comment == "" && isHeading && strings.HasPrefix(line, "#"):
			name = heading
		case comment != "" && isMark:
			name = strings.TrimSuffix(mark, " -->")
		case !strings.HasPrefix(line, "|"):
			if open && comment != "" {
				name = ""
			}
			open = false
		case strings.HasPrefix(strings.Trim(line, "| "), "---"):
		default:
			if !open {
				all[name] = append(all[name], nil)
			}
			open = true
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			last := &all[name][len(all[name])-1]
			*last = append(*last, cells)
		}
	}
	return all
}

// exact are the columns whose cells are the same on both pages.
var exact = []string{"offset", "length", "type", "info"}

// rowSays reports whether a row of format.md says what a row of the other page
// says: words may be left out at the end of a cell, or all of them, but no part
// of a word or number.
func rowSays(format, short, columns []string) bool {
	for i, cell := range short {
		if i >= len(format) || slices.Contains(exact, columns[i]) && format[i] != cell {
			return false
		}
		rest, begins := strings.CutPrefix(format[i], cell)
		if !begins || cell != "" && regexp.MustCompile(`^([\pL\pN]|,\d)`).MatchString(rest) {
			return false
		}
	}
	return true
}

// saysAll reports whether the rows are among those of a table of format.md, in
// its order; none may be missing in what is a structure.
func saysAll(format, short mdTable) bool {
	structure := short[0][0] == "length" || short[0][0] == "offset"
	if structure && len(format) != len(short) {
		return false
	}
	for _, row := range short {
		i := slices.IndexFunc(format, func(f []string) bool { return rowSays(f, row, short[0]) })
		if i < 0 || structure && i != 0 {
			return false
		}
		format = format[i+1:]
	}
	return true
}

// TestRecoveryTablesAreThoseOfTheFormat compares every table of bytes.
func TestRecoveryTablesAreThoseOfTheFormat(t *testing.T) {
	t.Parallel()
	format, checked := mdTables(page(t, formatPage), ""), 0
	for section, tables := range mdTables(page(t, recoveryPage), "from") {
		for _, short := range tables {
			if section == "" {
				if len(short[0]) == 3 && short[0][0] == "what" && short[0][2] == "gives" {
					continue // the known answers
				}
				t.Errorf("nothing checks the table\n%v", short)
				continue
			}
			checked++
			if !slices.ContainsFunc(format[section], func(f mdTable) bool { return saysAll(f, short) }) {
				t.Errorf("no table of %q in format.md says\n%v\nbut those are\n%v", section, short, format[section])
			}
		}
	}
	if checked < 13 {
		t.Errorf("only %d tables were compared", checked)
	}
}

// TestRecoveryTablesAreCompared: a table of the page with a wrong number is
// found.
func TestRecoveryTablesAreCompared(t *testing.T) {
	t.Parallel()
	format := mdTables(page(t, formatPage), "")
	text := page(t, recoveryPage)
	for _, change := range [][2]string{
		{"| 12 | 4 | length of the clear part", "| 11 | 4 | length of the clear part"},
		{"| 8 | sealed bytes that were new with it |\n", ""},
		{"`pinion 2 index` |", "`pinion 2 index list` |"},
		{"| 32 | top of the session list |\n", ""},
		{"| 32 | top of the session list |\n| 32 | blob id of the volume table |", "| 32 | blob id of the volume table |\n| 32 | top of the session list |"},
		{"| 5 | session |", "| 4 | session |"},
		{"65,536 to 4,194,304 | |", "65,536 to 4,194 | |"},
		{"header of the pack ‖ `packs/<xx>/<id>`", "header ‖ `packs/<xx>/<id>`"},
	} {
		wrong := strings.Replace(text, change[0], change[1], 1)
		if wrong == text {
			t.Errorf("the page has no %q", change[0])
		}
		found := false
		for section, tables := range mdTables(wrong, "from") {
			for _, short := range tables {
				found = found || section != "" && !slices.ContainsFunc(format[section], func(f mdTable) bool { return saysAll(f, short) })
			}
		}
		if !found {
			t.Errorf("%q in the place of %q is not found", change[1], change[0])
		}
	}
}

// TestRecoveryWordsAreThoseOfTheFormat compares what stands outside of tables.
func TestRecoveryWordsAreThoseOfTheFormat(t *testing.T) {
	t.Parallel()
	recovery, format := page(t, recoveryPage), page(t, formatPage)
	for _, words := range [][2]string{
		{"big-endian and unsigned", "big-endian and unsigned"},
		{"nonce (24) ‖ ciphertext ‖ tag (16)", "nonce ‖ ciphertext ‖ tag(16)"},
		{"40 bytes more than the plaintext", "40 bytes more than the plaintext"},
		{"fewer than 4,096, up to a multiple of 4,096 bytes", "fewer than 4,096, up to a multiple of 4,096 bytes"},
		{"the archive id ‖ the slot's bytes before the nonce ‖ its extension area", "the archive id ‖ the slot's bytes before the nonce ‖ its extension area"},
		{"of the text `pinion 2 commitment`", "HMAC-SHA256 under the key encryption key of `pinion 2 commitment`"},
		{"the info `pinion 2 key file`", "the info `pinion 2 key file`"},
		{"the archive id as salt", "salt: the archive id"},
		{"`pinion 2 blob id` ‖ type (1) ‖ domain (2)", "`pinion 2 blob id` ‖ type (1) ‖ domain (2)"},
		{"the first 20 bits of SHA-256 of the text `pinion 2 recovery key` ‖ key", "the first 20 bits of SHA-256 of the text `pinion 2 recovery key` ‖ key"},
		{"base 32, `0123456789ABCDEFGHJKMNPQRSTVWXYZ` for 0 to 31", "base 32, with the digits `0123456789ABCDEFGHJKMNPQRSTVWXYZ` for 0 to 31"},
		{"Then come 4 zero bits", "and 4 zero bits in 52 digits"},
		{"read O as 0, and I and L as 1", "O for 0, and I and L for 1"},
		{"(32 or more)", "(32 of them at least)"},
		{"memory × passes above 4,194,304", "Memory × passes is at most 4,194,304"},
		{"Unicode normalisation form C", "Unicode normalisation form C"},
		{"Argon2id (RFC 9106), version 1.3", "Argon2id version 1.3"},
		{"The newest counts, which the root lists last", "then the newest counts"},
		{"the id with all bits inverted", "under the id with all bits inverted"},
		{"whose id has all bits inverted", "the pack whose id has all bits inverted"},
		{"at most the chunk size for a chunk and 2,097,152 for metadata", "at most the chunk size for a chunk and 2,097,152 for metadata"},
		{"the first 9 bits of HMAC-SHA256", "the first 9 bits (0 to 511) of HMAC-SHA256"},
		{"the least multiple of 512 that is not less than the length of the content + *r*", "the least multiple of 512 bytes that is not less than the length of the content + r"},
		{"The first blob begins at offset 16, each of the others where the one before ends", "The first blob begins at offset 16, each of the others where the one before ends"},
		{"the one of the highest generation counts, and of one generation that with the most edits", "the one with the higher generation counts, and of one generation that with more edits"},
		{"the least with 32^*h* ≥ *n*", "the least with 32^*h* ≥ *n*"},
		{"number 32 *i* + *c* of the level below", "32 *i* + *c* of level *l* − 1"},
		{"⌊sequence number of the next session ÷ 32⌋ + 1 addresses", "⌊next sequence number ÷ 32⌋ + 1 addresses"},
	} {
		if !strings.Contains(recovery, words[0]) {
			t.Errorf("%s doesn't say %q", recoveryPage, words[0])
		}
		if !strings.Contains(strings.ReplaceAll(format, "\n", " "), words[1]) {
			t.Errorf("%s doesn't say %q", formatPage, words[1])
		}
	}
}

// recoveryExample is the recovery key of the bytes 10 11 … 2f.
const recoveryExample = "208H-44RM-2MB1-E60S-38DH-R78Y-3WG2-28H3-4GJJ-C9S8-54N2-PB1D-5RQG-0091"

// recoveryAnswers are the answers on the page, made here by other libraries.
func recoveryAnswers(t *testing.T) []string {
	t.Helper()
	ones, twos := []byte(strings.Repeat("\x11", 32)), []byte(strings.Repeat("\x22", 32))
	derived, err := hkdf.Key(sha256.New, ones, twos[:16], "pinion 2 root", 32)
	if err != nil {
		t.Fatal(err)
	}
	hash := hmac.New(sha256.New, ones)
	hash.Write([]byte("pinion 2 commitment"))
	aead, err := chacha20poly1305.NewX(ones)
	if err != nil {
		t.Fatal(err)
	}
	base32 := base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
	key, err := base32.DecodeString(strings.ReplaceAll(recoveryExample, "-", "")[:52])
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		hex.EncodeToString(derived), hex.EncodeToString(hash.Sum(nil)),
		hex.EncodeToString(aead.Seal(nil, twos[:24], []byte("recovery"), []byte("pinion"))),
		hex.EncodeToString(argon2.IDKey([]byte("recovery"), twos, 1, 65536, 1, 32)),
		hex.EncodeToString(key),
	}
}

func TestRecoveryAnswers(t *testing.T) {
	t.Parallel()
	want, got := recoveryAnswers(t), []string{}
	_, table, _ := strings.Cut(page(t, recoveryPage), "<!-- answers -->\n")
	for _, m := range regexp.MustCompile("(?m)^\\|.*\\| `([0-9a-f]+)` \\|$").FindAllStringSubmatch(table, -1) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page has the answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	needRecovery(t)
	ask := func(what string) string {
		dir, err := filepath.Abs(filepath.Dir(recoverScript))
		if err != nil {
			t.Fatal(err)
		}
		prepared := "import sys, hmac; sys.path.insert(0, sys.argv[1]); import recover as r; a, b = b'\\x11' * 32, b'\\x22' * 32; "
		return run(t, "python3", "-I", "-B", "-c", prepared+what, dir)
	}
	for i, what := range []string{
		`print(r.hkdf(a, b[:16], b"pinion 2 root").hex())`,
		`print(hmac.digest(a, b"pinion 2 commitment", "sha256").hex())`,
		`print(r.unseal(a, b[:24] + bytes.fromhex("` + want[2] + `"), b"pinion", "it").hex())`,
	} {
		if i == 2 {
			want[2] = hex.EncodeToString([]byte("recovery"))
		}
		if answer := ask(what); answer != want[i] {
			t.Errorf("the script answers %s to %s, want %s", answer, what, want[i])
		}
	}
	for text, key := range map[string]string{
		recoveryExample: want[4],
		strings.ToLower(strings.ReplaceAll(recoveryExample, "-", "")):                       want[4],
		strings.NewReplacer("0", "o", "1", "l", "-", " \\t").Replace(recoveryExample) + " ": want[4],
		strings.NewReplacer("0", "O", "1", "I").Replace(recoveryExample):                    want[4],
		recoveryExample[:68] + "2":                          "None", // another checksum
		strings.Replace(recoveryExample, "5RQG", "5RQH", 1): "None", // the last of the zero bits set
		recoveryExample[:68]:                                "None",
		recoveryExample + "0":                               "None",
		strings.Replace(recoveryExample, "R", "U", 1):       "None",
		strings.Replace(recoveryExample, "1", "ı", 1):       "None",
	} {
		if answer := ask(`key = r.read_recovery_key("` + text + `".encode()); print(key and key.hex())`); answer != key {
			t.Errorf("the script reads the recovery key %q as %s, want %s", text, answer, key)
		}
	}
	ways := 0
	for _, way := range [][2]string{
		{`import ctypes; ctypes.CDLL("libargon2.so.1")`, "argon2id"},
		{`import argon2.low_level`, "argon2id_of_python"},
		{`import cryptography.hazmat.primitives.kdf.argon2`, "argon2id_of_python"},
	} {
		if exec.Command("python3", "-I", "-c", way[0]).Run() != nil {
			continue
		}
		ways++
		if answer := ask("print(r." + way[1] + `(b"recovery", b, 1, 65536, 1).hex())`); answer != want[3] {
			t.Errorf("the script answers %s by %s, where there is what is needed to %s; want %s", answer, way[1], way[0], want[3])
		}
	}
	t.Logf("Argon2 was asked in %d ways of 3", ways)
	needArgon2(t)
}
