// Package rules_test holds the whole source tree to the project's rules: who
// may import whom, what the programs link, and how files look.
//
// It owns no code. It promises that a rule which is broken is named with the
// file or package that breaks it. It never looks at what the code does.
package rules_test

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the top of the source tree.
const root = "../../.."

// list runs go list at the top of the tree and returns its lines.
func list(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}

// walls say what packages under a directory may import of what isn't the
// standard library. Tests may import more, but never across the wall.
var walls = []struct {
	dir   string
	may   []string // prefixes of import paths; tests of the package, too
	never []string // not even in tests
}{
	{
		"protocol", []string{"pinion/protocol"},
		[]string{"pinion/dom0", "pinion/destvm"},
	},
	{
		"destvm", []string{"pinion/destvm", "pinion/protocol", "golang.org/x/sys/", "github.com/jessevdk/go-flags"},
		[]string{"pinion/dom0"},
	},
	{
		"dom0", []string{
			"pinion/dom0", "pinion/protocol", "golang.org/x/", "github.com/jessevdk/go-flags", "github.com/klauspost/compress/zstd",
			"github.com/beevik/etree", "github.com/zeebo/blake3",
		},
		[]string{"pinion/destvm"},
	},
}

func TestImportWalls(t *testing.T) {
	for _, w := range walls {
		packages := list(t, "-f", `{{.ImportPath}}|{{join .Imports " "}}|{{join .TestImports " "}} {{join .XTestImports " "}}`, "./"+w.dir+"/...")
		if len(packages) < 2 {
			t.Errorf("%s has %d packages", w.dir, len(packages))
		}
		for _, p := range packages {
			part := strings.Split(p, "|")
			for _, imported := range strings.Fields(part[1]) {
				if !standard(imported) && !hasPrefix(imported, w.may) {
					t.Errorf("%s imports %s", part[0], imported)
				}
			}
			for _, imported := range strings.Fields(part[1] + " " + part[2]) {
				if hasPrefix(imported, w.never) {
					t.Errorf("%s imports %s, or its tests do", part[0], imported)
				}
			}
		}
	}
}

// standard reports whether a package is of the standard library: the first
// part of its path has no dot, and it isn't ours.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".") && first != "pinion"
}

func hasPrefix(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == strings.TrimSuffix(p, "/") || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
	})
}

// programs are what is shipped, with every module that each links and why.
var programs = map[string]map[string]string{
	"./dom0/cmd/pinion": {
		"github.com/beevik/etree":       "qubes.xml",
		"github.com/jessevdk/go-flags":  "options, help and completion",
		"github.com/klauspost/compress": "zstd",
		"github.com/klauspost/cpuid/v2": "what the processor can do, for BLAKE3",
		"github.com/zeebo/blake3":       "keyed BLAKE3",
		"golang.org/x/crypto":           "XChaCha20-Poly1305, Argon2id",
		"golang.org/x/sync":             "groups of goroutines, and the window of bytes on their way",
		"golang.org/x/sys":              "holes, block devices, locks, core dumps",
		"golang.org/x/term":             "prompts without echo",
		"golang.org/x/text":             "normalisation of passphrases",
	},
	"./destvm/cmd/pinion-store": {
		"github.com/jessevdk/go-flags": "options and help",
		"golang.org/x/sys":             "holes, locks, free space",
	},
}

func TestLinkedModules(t *testing.T) {
	for program, want := range programs {
		got := list(t, "-deps", "-f", `{{with .Module}}{{.Path}}{{end}}`, program)
		for _, module := range got {
			if module != "" && module != "pinion" && want[module] == "" {
				t.Errorf("%s links %s, and nobody says why", program, module)
			}
		}
		for module, why := range want {
			if !slices.Contains(got, module) {
				t.Errorf("%s doesn't link %s (%s)", program, module, why)
			}
		}
	}
}

// unlinked are packages that the programs must do without, each with its
// reason.
var unlinked = map[string]string{
	"testing":                          "it brings its options along",
	"net/http":                         "neither program talks to a network",
	"net":                              "neither program talks to a network",
	"plugin":                           "no code comes from outside",
	"pinion/dom0/internal/formattest":  "it is for tests",
	"pinion/dom0/internal/archivetest": "it is for tests",
	"pinion/dom0/internal/testenv":     "it is for tests",
	"pinion/e2e/umltest":               "it is for tests",
	"pinion/e2e/qrexec":                "it is for tests",
	"pinion/e2e/qubesd":                "it is for tests",
	"pinion/dom0/internal/tracker/trackertest": "it is for tests",
}

func TestUnlinkedPackages(t *testing.T) {
	for program := range programs {
		for _, p := range list(t, "-deps", program) {
			if why := unlinked[p]; why != "" {
				t.Errorf("%s links %s; %s", program, p, why)
			}
		}
	}
}

// goFile is a parsed file of the tree.
type goFile struct {
	path string // from the top
	text []byte
	ast  *ast.File
	fset *token.FileSet
}

func (f *goFile) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// goFiles are all Go files of the tree.
func goFiles(t *testing.T) []*goFile {
	t.Helper()
	var files []*goFile
	walk(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, ".go") {
			return
		}
		f := &goFile{path: path, text: text, fset: token.NewFileSet()}
		var err error
		if f.ast, err = parser.ParseFile(f.fset, path, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			t.Error(err)
			return
		}
		files = append(files, f)
	})
	if len(files) < 100 {
		t.Errorf("the tree has %d Go files", len(files))
	}
	return files
}

// TestGoFiles holds every Go file to the rules below.
func TestGoFiles(t *testing.T) {
	files := goFiles(t)
	for name, rule := range map[string]func(*testing.T, []*goFile){
		"formatted":                  formatted,
		"length":                     lengthOfFiles,
		"no hidden start":            noHiddenStart,
		"packages say what they are": packagesSayWhatTheyAre,
		"exported is documented":     exportedIsDocumented,
	} {
		t.Run(name, func(t *testing.T) { rule(t, files) })
	}
}

// walk gives every file of the tree that was written by somebody to visit.
func walk(t *testing.T, visit func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if e.IsDir() && slices.Contains([]string{".git", "bin", "dist", "vendor"}, rel) {
			return fs.SkipDir
		}
		if !e.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			visit(filepath.ToSlash(rel), text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestTop: nothing lies at the top but what belongs there.
func TestTop(t *testing.T) {
	allowed := []string{
		"dom0", "destvm", "qrexec-policy", "protocol", "rpm", "go.mod", "go.sum", "Makefile", "README.md", "docs", "e2e", "version",
		".ci", ".git", ".gitignore", ".qubesbuilder", "LICENSE", "bin", "dist", // what is built goes to bin, packages to dist
		"vendor", // in source tarballs
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(allowed, e.Name()) {
			t.Errorf("%s lies at the top", e.Name())
		}
	}
}

func formatted(t *testing.T, files []*goFile) {
	for _, f := range files {
		if want, err := format.Source(f.text); err != nil || !bytes.Equal(want, f.text) {
			t.Errorf("%s is not as gofmt would have it (%v)", f.path, err)
		}
	}
}

// maxLines is how long a file may be: more can nobody keep in mind.
const maxLines = 500

func lengthOfFiles(t *testing.T, files []*goFile) {
	for _, f := range files {
		if n := bytes.Count(f.text, []byte("\n")); n > maxLines {
			t.Errorf("%s has %d lines", f.path, n)
		}
	}
}

// unfinished are words that say that something is still to be done.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X|HA` + `CK)\b`)

func TestNothingUnfinished(t *testing.T) {
	walk(t, func(path string, text []byte) {
		if bytes.ContainsRune(text[:min(len(text), 8000)], 0) {
			return // not text
		}
		s := bufio.NewScanner(bytes.NewReader(text))
		s.Buffer(nil, 1<<20)
		for n := 1; s.Scan(); n++ {
			if unfinished.Match(s.Bytes()) {
				t.Errorf("%s:%d: %s", path, n, bytes.TrimSpace(s.Bytes()))
			}
		}
	})
}

// noHiddenStart: nothing runs before main, and nothing ends the program but
// main.
func noHiddenStart(t *testing.T, files []*goFile) {
	for _, f := range files {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function", f.fset.Position(fn.Pos()))
			}
		}
		if f.ast.Name.Name == "main" || f.test() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := call.X.(*ast.Ident); ok {
				name := pkg.Name + "." + call.Sel.Name
				if name == "os.Exit" || name == "syscall.Exit" || pkg.Name == "log" && strings.HasPrefix(call.Sel.Name, "Fatal") {
					t.Errorf("%s calls %s", f.fset.Position(n.Pos()), name)
				}
			}
			return true
		})
	}
}

// sentence is the end of one, at the end of the text or before another.
var sentence = regexp.MustCompile(`[.:!?]["')]?(\s|$)`)

// packagesSayWhatTheyAre: every package has one comment, of three sentences
// at least: what it is, what it promises, what it never does.
func packagesSayWhatTheyAre(t *testing.T, files []*goFile) {
	docs := map[string][]string{}
	for _, f := range files {
		dir := filepath.Dir(f.path)
		if f.test() {
			continue
		}
		docs[dir] = append(docs[dir], "")
		if f.ast.Doc != nil {
			docs[dir] = append(docs[dir], f.ast.Doc.Text())
		}
	}
	for dir, texts := range docs {
		texts = slices.DeleteFunc(texts, func(s string) bool { return s == "" })
		if len(texts) != 1 {
			t.Errorf("%s has %d package comments", dir, len(texts))
			continue
		}
		if n := len(sentence.FindAllString(strings.TrimSpace(texts[0]), -1)); n < 3 {
			t.Errorf("%s says what it is in %d sentences:\n%s", dir, n, texts[0])
		}
	}
}

// exportedIsDocumented: whatever another package can use has a comment.
func exportedIsDocumented(t *testing.T, files []*goFile) {
	for _, f := range files {
		if f.test() {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil {
					t.Errorf("%s: %s has no comment", f.fset.Position(d.Pos()), d.Name)
				}
			case *ast.GenDecl:
				checkDecl(t, f, d)
			}
		}
	}
}

// exportedReceiver is false for methods that nobody outside can name.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

// checkDecl wants a comment at each name, or at the group that it is in; one
// comment may name several.
func checkDecl(t *testing.T, f *goFile, d *ast.GenDecl) {
	var all strings.Builder
	for _, spec := range d.Specs {
		if s, ok := spec.(*ast.ValueSpec); ok {
			all.WriteString(s.Doc.Text())
		}
	}
	for _, spec := range d.Specs {
		var names []*ast.Ident
		var docs []*ast.CommentGroup
		switch s := spec.(type) {
		case *ast.TypeSpec:
			names, docs = []*ast.Ident{s.Name}, []*ast.CommentGroup{d.Doc, s.Doc, s.Comment}
		case *ast.ValueSpec:
			names, docs = s.Names, []*ast.CommentGroup{d.Doc, s.Doc, s.Comment}
		}
		commented := slices.ContainsFunc(docs, func(c *ast.CommentGroup) bool { return c != nil })
		for _, name := range names {
			if name.IsExported() && !commented && !strings.Contains(all.String(), name.Name) {
				t.Errorf("%s: %s has no comment", f.fset.Position(name.Pos()), name)
			}
		}
	}
}
