package cluster

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// document returns the lines of a package comment.
func document(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(f.Doc.Text(), "\n")
}

// testsIn returns the test functions of a folder, and all string literals of its test
// files, among which are the names of subtests.
func testsIn(t *testing.T, dir string) (functions, literals map[string]bool) {
	t.Helper()
	functions, literals = make(map[string]bool), make(map[string]bool)
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil {
					functions[n.Name.Name] = true
				}
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING {
					literals[strings.ReplaceAll(s, " ", "_")] = true
				}
			}
			return true
		})
	}
	return functions, literals
}

// TestInvariantsHaveTests checks that each invariant in the package document is followed
// by tests, and that these exist.
func TestInvariantsHaveTests(t *testing.T) {
	heading := regexp.MustCompile(`^(I\d), `)
	reference := regexp.MustCompile(`^\t([a-z/]+)\.(Test\w+)((?:/\w+)*)$`)
	counts := make(map[string]int)
	invariant := ""
	for _, line := range document(t, "doc.go") {
		if m := heading.FindStringSubmatch(line); m != nil {
			invariant = m[1]
			counts[invariant] = 0
		}
		m := reference.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		counts[invariant]++
		functions, literals := testsIn(t, filepath.Join("..", m[1]))
		if !functions[m[2]] {
			t.Errorf("%s: there is no test %s.%s", invariant, m[1], m[2])
		}
		for _, subtest := range strings.Split(m[3], "/")[1:] {
			if !literals[subtest] {
				t.Errorf("%s: %s.%s has no subtest %s", invariant, m[1], m[2], subtest)
			}
		}
	}
	for n := 1; n <= 8; n++ {
		if name := "I" + strconv.Itoa(n); counts[name] == 0 {
			t.Errorf("%s is not followed by tests", name)
		}
	}
}

// constants returns the package-level constants of a folder and those below it, with
// their values as they are written.
func constants(t *testing.T, root string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, text, 0)
		if err != nil {
			return err
		}
		dir := strings.TrimPrefix(filepath.ToSlash(filepath.Dir(path)), "../")
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				for i, value := range v.Values {
					from, to := fset.Position(value.Pos()).Offset, fset.Position(value.End()).Offset
					all[dir+"."+v.Names[i].Name] = string(text[from:to])
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestConstantsAreInTheTable checks that the table of tuning constants has the values of
// the code, and that no duration and no maximum is missing from it.
func TestConstantsAreInTheTable(t *testing.T) {
	inCode := make(map[string]string)
	for _, root := range []string{"../cluster", "../actor", "../store"} {
		for name, value := range constants(t, root) {
			inCode[name] = value
		}
	}
	row := regexp.MustCompile(`^\t([a-z/]+\.\w+) = (.+?) {2,}(\S.*)$`)
	inTable := make(map[string]bool)
	for _, line := range document(t, "doc_constants.go") {
		m := row.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "\t") {
				t.Errorf("this is no row of the table: %s", line)
			}
			continue
		}
		if inTable[m[1]] {
			t.Errorf("%s is in the table twice", m[1])
		}
		inTable[m[1]] = true
		if value, ok := inCode[m[1]]; !ok || value != m[2] {
			t.Errorf("%s is %q in the table, and %q in the code", m[1], m[2], value)
		}
	}
	tuning := regexp.MustCompile(`\btime\.`)
	maximum := regexp.MustCompile(`\.[mM]ax[A-Z]\w*$`)
	for name, value := range inCode {
		if (tuning.MatchString(value) || maximum.MatchString(name)) && !inTable[name] {
			t.Errorf("%s = %s is not in the table", name, value)
		}
	}
}
