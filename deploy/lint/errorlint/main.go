// Command errorlint reports error handling that fails once an error is wrapped:
// comparisons with ==, type assertions, and %v where %w is needed. It is a tool
// for `go vet -vettool`, so the go command caches its results.
//
// A comment on the line above a finding excludes it, and must give the reason:
//
//	//lint:ignore errorlint the reason
package main

import (
	"go/ast"
	"go/token"
	"regexp"

	"github.com/polyfloyd/go-errorlint/errorlint"
	"golang.org/x/tools/go/analysis"
	"golang.org/x/tools/go/analysis/unitchecker"
)

var ignoreComment = regexp.MustCompile(`^//lint:ignore errorlint \S`)

func main() { unitchecker.Main(withExceptions(errorlint.NewAnalyzer())) }

// withExceptions makes the analyzer skip findings below an ignore comment.
func withExceptions(analyzer *analysis.Analyzer) *analysis.Analyzer {
	run := analyzer.Run
	analyzer.Run = func(pass *analysis.Pass) (any, error) {
		ignored := ignoredLines(pass.Fset, pass.Files)
		report := pass.Report
		pass.Report = func(d analysis.Diagnostic) {
			position := pass.Fset.Position(d.Pos)
			if !ignored[line{position.Filename, position.Line}] {
				report(d)
			}
		}
		return run(pass)
	}
	return analyzer
}

type line struct {
	file   string
	number int
}

// ignoredLines returns the lines below ignore comments.
func ignoredLines(fset *token.FileSet, files []*ast.File) map[line]bool {
	lines := make(map[line]bool)
	for _, file := range files {
		for _, group := range file.Comments {
			for _, comment := range group.List {
				if ignoreComment.MatchString(comment.Text) {
					position := fset.Position(comment.Pos())
					lines[line{position.Filename, position.Line + 1}] = true
				}
			}
		}
	}
	return lines
}
