// Package cmd has the documents about the commands, so that an instance can serve them.
package cmd

import "embed"

// Documents are Markdown files, by their names in this folder.
//
//go:embed COMMANDS.md
var Documents embed.FS
