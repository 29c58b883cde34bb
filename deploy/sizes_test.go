package deploy_test

import (
	"go/ast"
	"go/types"
	"strings"
	"testing"
)

// The limits below keep the source readable. Split a folder, a type or a function
// that grows beyond its limit; do not raise the limit.
const (
	maxFilesInFolder   = 25
	maxMethodsOfType   = 35
	maxFilesOfMethods  = 6
	maxLinesOfFile     = 384
	maxLinesOfFunction = 70
)

func TestSizes(t *testing.T) {
	files := parseModule(t)
	t.Run("folder", func(t *testing.T) {
		count := make(map[string]int)
		for _, f := range files {
			count[f.folder()]++
		}
		for folder, n := range count {
			if n > maxFilesInFolder {
				t.Errorf("%s has %d Go files, more than %d", folder, n, maxFilesInFolder)
			}
		}
	})
	t.Run("file", func(t *testing.T) {
		for _, f := range files {
			if n := f.lines(f.syntax); n > maxLinesOfFile && !f.isTest() {
				t.Errorf("%s has %d lines, more than %d", f.path, n, maxLinesOfFile)
			}
		}
	})
	t.Run("function", func(t *testing.T) {
		for _, f := range files {
			for _, d := range f.syntax.Decls {
				function, ok := d.(*ast.FuncDecl)
				if ok && !f.isTest() && f.lines(function) > maxLinesOfFunction {
					t.Errorf("%s: %s has %d lines, more than %d", f.path, function.Name, f.lines(function), maxLinesOfFunction)
				}
			}
		}
	})
	t.Run("type", func(t *testing.T) {
		methods, inFiles := make(map[string]int), make(map[string]map[string]bool)
		for _, f := range files {
			for _, d := range f.syntax.Decls {
				method, ok := d.(*ast.FuncDecl)
				if !ok || method.Recv == nil || f.isTest() {
					continue
				}
				name := f.folder() + "." + receiver(method)
				methods[name]++
				if inFiles[name] == nil {
					inFiles[name] = make(map[string]bool)
				}
				inFiles[name][f.path] = true
			}
		}
		for name, n := range methods {
			if n > maxMethodsOfType {
				t.Errorf("%s has %d methods, more than %d", name, n, maxMethodsOfType)
			}
			if len(inFiles[name]) > maxFilesOfMethods {
				t.Errorf("the methods of %s stand in %d files, more than %d", name, len(inFiles[name]), maxFilesOfMethods)
			}
		}
	})
}

// lines returns the number of lines that n takes, comments above n not counted.
func (f sourceFile) lines(n ast.Node) int {
	if n == f.syntax {
		return f.fset.File(n.Pos()).LineCount()
	}
	return f.fset.Position(n.End()).Line - f.fset.Position(n.Pos()).Line + 1
}

// receiver returns the name of the type that a method belongs to.
func receiver(method *ast.FuncDecl) string {
	name := strings.TrimPrefix(types.ExprString(method.Recv.List[0].Type), "*")
	name, _, _ = strings.Cut(name, "[") // type parameters
	return name
}
