// Package deploy has the documents for operators, so that an instance can serve them.
package deploy

import "embed"

// Documents are Markdown files, by their paths in this folder.
//
//go:embed CHANGELOG.md guide/*.md chart/README.md
var Documents embed.FS
