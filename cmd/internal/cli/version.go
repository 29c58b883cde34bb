package cli

import (
	"runtime"
	"runtime/debug"
	"strconv"

	"github.com/spf13/cobra"
)

// Commit is the commit that the program was built from. The linker sets it where the Go
// command does not know it, as in the image.
var Commit string

// A build is what there is to know of a program. Its JSON form is the output of version
// --json.
type build struct {
	Program  string `json:"program"`
	Version  string `json:"version"`
	Commit   string `json:"commit"` // "" if it is unknown
	Modified bool   `json:"modified"`
	Schema   int    `json:"schema,omitempty"`
	Go       string `json:"go"`
}

func newVersion(env *Env, schema int) *cobra.Command {
	asJSON := false
	c := &cobra.Command{
		Use:   "version",
		Short: "print the version, the commit, and the versions of the schema and of Go",
		Long: `Prints the version of the program, the commit that it was built from, the version of
the database's schema that it needs, and the version of Go.

The keys of the JSON document are program, version, commit ("" if it is unknown),
modified (the source had changes that were not committed), schema and go.`,
		RunE: func(*cobra.Command, []string) error {
			b := build{Program: env.Program, Version: env.Version, Commit: Commit, Schema: schema, Go: runtime.Version()}
			b.readVCS()
			if asJSON {
				return env.PrintJSON(b)
			}
			return b.print(env)
		},
	}
	JSONFlag(c, &asJSON)
	return c
}

// readVCS sets what the Go command has recorded of the source.
func (b *build) readVCS() {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
}

func (b *build) print(env *Env) error {
	commit := b.Commit
	switch {
	case commit == "":
		commit = "unknown"
	case b.Modified:
		commit += ", with changes"
	}
	table := NewTable(env.Stdout, b.Program+" "+b.Version)
	table.Row("  commit", commit)
	if b.Schema != 0 {
		table.Row("  schema", strconv.Itoa(b.Schema))
	}
	table.Row("  Go", b.Go)
	return table.Flush()
}
