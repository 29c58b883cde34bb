package deploy_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/glotpod/ident"

// leafPackages are the packages below cluster that every package may import, because
// they import nothing of the module.
var leafPackages = []string{"cluster/partition", "cluster/throttle", "cluster/tracelog", "cluster/wait"}

// neverEmbedded are types that a struct may hold, but not embed.
var neverEmbedded = []string{"*session", "amqp.Delivery", "*amqp.Delivery"}

// topLevel are the names that the root folder may hold. Names that .gitignore
// excludes, or that begin with a dot and are not listed, are not in the repository.
var topLevel = []string{
	"LICENSE", "Makefile", "README.md", "actor", "cluster", "cmd", "config", "deploy", "go.mod", "go.sum", "store",
	"bin", "dist", "glotpod-ident",
}

// TestImports holds the import graph of the module. Tests may import more, except
// for packages below cmd.
func TestImports(t *testing.T) {
	graph := importGraph(parseModule(t))
	// each calls check with every import from a package that from accepts.
	each := func(from func(string) bool, check func(importing, imported string)) {
		for _, importing := range slices.Sorted(maps.Keys(graph)) {
			if from(importing) {
				for _, imported := range graph[importing] {
					check(importing, imported)
				}
			}
		}
	}
	below := func(folder string) func(string) bool {
		return func(p string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }
	}

	t.Run("leaf packages import nothing of the module", func(t *testing.T) {
		for _, leaf := range leafPackages {
			if imports, exists := graph[leaf]; !exists || len(imports) > 0 {
				t.Errorf("%s imports %v; it exists: %t", leaf, imports, exists)
			}
		}
	})
	t.Run("actor imports neither cluster nor store", func(t *testing.T) {
		each(below("actor"), func(importing, imported string) {
			isLeaf := slices.Contains(leafPackages, imported)
			if below("store")(imported) || below("cluster")(imported) && !isLeaf {
				t.Errorf("%s imports %s", importing, imported)
			}
		})
	})
	t.Run("cluster does not import store", func(t *testing.T) {
		each(below("cluster"), func(importing, imported string) {
			if below("store")(imported) {
				t.Errorf("%s imports %s", importing, imported)
			}
		})
	})
	t.Run("only cmd imports cmd", func(t *testing.T) {
		each(func(p string) bool { return !below("cmd")(p) }, func(importing, imported string) {
			if below("cmd")(imported) {
				t.Errorf("%s imports %s", importing, imported)
			}
		})
	})
	t.Run("the production program imports of deploy the documents alone", func(t *testing.T) {
		const program = "cmd/glotpod-ident"
		if _, exists := graph[program]; !exists {
			t.Fatalf("there is no package %s", program)
		}
		reached := map[string]bool{program: true}
		for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
			for _, imported := range graph[queue[0]] {
				if below("deploy")(imported) && imported != "deploy" {
					t.Errorf("%s reaches %s, by %s", program, imported, queue[0])
				}
				if !reached[imported] {
					reached[imported] = true
					queue = append(queue, imported)
				}
			}
		}
	})
}

// An embedded type offers all of its methods. A session or a delivery has many that
// the type around it does not mean to offer, such as Ack.
func TestNoStructEmbedsSessionOrDelivery(t *testing.T) {
	for _, f := range parseModule(t) {
		if f.isTest() {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			structure, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, field := range structure.Fields.List {
				embedded := types.ExprString(field.Type)
				if len(field.Names) == 0 && slices.Contains(neverEmbedded, embedded) {
					t.Errorf("%s:%d: embeds %s", f.path, f.fset.Position(field.Pos()).Line, embedded)
				}
			}
			return true
		})
	}
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && !slices.Contains(topLevel, e.Name()) {
			t.Errorf("%s does not belong in the root folder", e.Name())
		}
	}
}

// A sourceFile is a parsed Go file. Its path is relative to the module's root.
type sourceFile struct {
	path   string
	fset   *token.FileSet
	syntax *ast.File
}

func (f sourceFile) folder() string { return path.Dir(f.path) }

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// parseModule parses all Go files of the module. Folders with a go.mod of their own
// are other modules.
func parseModule(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	fset := token.NewFileSet()
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			if file != ".." && (err == nil || strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
		relative, _ := filepath.Rel("..", file)
		files = append(files, sourceFile{filepath.ToSlash(relative), fset, syntax})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// importGraph returns which packages of the module each package imports, tests left
// out. Packages are named by their folders.
func importGraph(files []sourceFile) map[string][]string {
	graph := make(map[string][]string)
	for _, f := range files {
		if f.isTest() {
			continue
		}
		imports := graph[f.folder()]
		for _, spec := range f.syntax.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			folder, ok := strings.CutPrefix(imported, modulePath+"/")
			if ok && !slices.Contains(imports, folder) {
				imports = append(imports, folder)
			}
		}
		graph[f.folder()] = imports
	}
	return graph
}
