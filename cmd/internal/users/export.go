// Package users has the commands that work on the database: schema, export, import and
// encryption keys.
package users

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
)

const exportAbout = `Writes all users in the order of their ids as lines of JSON: a first line with the
format, one line for each user, and a last line with the number of users. Access
tokens are encrypted, as in the database, or left out.

Instances can run during an export. Each user is consistent, but different users
may be read at different times. For a snapshot of all users use pg_dump.

The file is first written as <file>.partial and renamed when it is complete. With
--resume, an export that was interrupted is continued. If <file> is a symbolic
link, the link stays and its target is written. To write to a device or a pipe,
redirect standard output.

--json needs --output. The keys of the JSON document are file (the path), users (that
this run has exported) and total (in the file).`

// exportOptions are the options of an export.
type exportOptions struct {
	output  string // the path of the file, with symbolic links resolved; "": standard output
	asJSON  bool
	resume  bool
	tokens  archive.Tokens
	afterID int64
}

// header returns the first line. lastID is the greatest user id in the database.
func (o exportOptions) header(lastID int64) archive.Header {
	return archive.Header{Tokens: o.tokens, LastID: lastID, AfterID: o.afterID}
}

// NewExport returns the command export.
func NewExport(env *cli.Env) *cobra.Command {
	var o exportOptions
	c := &cobra.Command{
		Use:   "export",
		Short: "write all users to a file",
		Long:  exportAbout,
		RunE:  func(c *cobra.Command, _ []string) error { return runExport(c.Context(), env, o) },
	}
	cli.JSONFlag(c, &o.asJSON)
	c.Flags().StringVar(&o.output, "output", "", "the `file` to write instead of standard output")
	c.Flags().BoolVar(&o.resume, "resume", false, "continue <file>.partial if it exists")
	c.Flags().StringVar((*string)(&o.tokens), "tokens", string(archive.Sealed), "`sealed` for encrypted access tokens, omit to leave them out")
	c.Flags().Int64Var(&o.afterID, "after-id", 0, "export only users with a greater `id`")
	cli.CompleteFlag(c, "tokens", string(archive.Sealed), string(archive.Omit))
	return c
}

func runExport(ctx context.Context, env *cli.Env, o exportOptions) error {
	switch {
	case o.tokens != archive.Sealed && o.tokens != archive.Omit:
		return cli.Usagef("--tokens must be sealed or omit, not %q", o.tokens)
	case o.afterID < 0:
		return cli.Usagef("--after-id must be the id of a user, not %d", o.afterID)
	case o.asJSON && o.output == "":
		return cli.Usagef("--json needs --output, because standard output has the users")
	case o.resume && o.output == "":
		return cli.Usagef("--resume needs --output")
	case o.resume && o.afterID != 0:
		return cli.Usagef("--resume finds out where to continue and takes no --after-id")
	}
	if o.output != "" {
		path, err := resolveOutput(o.output)
		if err != nil {
			return cli.WithStatus(cli.StatusUsage, err)
		}
		o.output = path
	}
	c, err := config.LoadCommand(env.Environ)
	if err != nil {
		return err
	}
	return export(ctx, c, o, env)
}

// exported is the output of export --json.
type exported struct {
	File  string `json:"file"`
	Users int64  `json:"users"`
	Total int64  `json:"total"`
}

func export(ctx context.Context, c *config.Config, o exportOptions, env *cli.Env) error {
	users, err := store.OpenExporter(ctx, connect.Store(c, zap.NewNop()), o.tokens)
	if err != nil {
		return connect.StoreError(err)
	}
	defer users.Close()
	lastID, err := users.LastID(ctx)
	if err != nil {
		return connect.StoreError(err)
	}
	if o.output == "" {
		written, err := archive.NewWriter(env.Stdout, o.header(lastID))
		if err != nil {
			return err
		}
		e := &exporting{users: users, archive: written, at: o.afterID, lastID: lastID}
		return e.run(ctx, env.Stderr)
	}
	file, err := openExportFile(o, lastID)
	if err != nil {
		return err
	}
	defer file.close()
	before := file.archive.Users()
	if !file.complete {
		e := &exporting{users: users, archive: file.archive, at: file.lastID, lastID: lastID, toFile: true}
		if err := e.run(ctx, env.Stderr); err != nil {
			return err
		}
	}
	if err := file.finish(); err != nil || !o.asJSON {
		return err
	}
	return env.PrintJSON(exported{o.output, file.archive.Users() - before, file.archive.Users()})
}

// An exporting is one run of export.
type exporting struct {
	users   *store.Exporter
	archive *archive.Writer
	at      int64 // the id of the last user that was flushed to the output
	lastID  int64 // the greatest user id at the start
	toFile  bool
}

// run writes the users after e.at.
func (e *exporting) run(ctx context.Context, stderr io.Writer) error {
	progress := newProgress(stderr, "exporting")
	before := e.archive.Users()
	err := e.copy(ctx, progress)
	progress.clear()
	if err == nil {
		err = e.archive.Close()
	}
	if err != nil {
		hint := fmt.Sprintf("--after-id %d exports the remaining users to another file", e.at)
		if e.toFile {
			hint = "--resume continues the export"
		}
		return fmt.Errorf("%w; the export was interrupted after user %d: %s", err, e.at, hint)
	}
	fmt.Fprintf(stderr, "%d users exported", e.archive.Users()-before)
	if before > 0 {
		fmt.Fprintf(stderr, ", %d in total", e.archive.Users())
	}
	fmt.Fprintln(stderr)
	return nil
}

var errInterrupted = errors.New("stopped by a signal")

func (e *exporting) copy(ctx context.Context, progress *progress) error {
	for {
		page, err := e.users.Page(ctx, e.at)
		switch {
		case ctx.Err() != nil:
			return errInterrupted
		case err != nil:
			return connect.StoreError(err)
		case len(page) == 0:
			return nil
		}
		for i := range page {
			if err := e.archive.Add(&page[i]); err != nil {
				return err
			}
		}
		if err := e.archive.Flush(); err != nil {
			return err
		}
		e.at = page[len(page)-1].ID
		progress.at(e.archive.Users(), float64(e.at)/float64(e.lastID))
	}
}
