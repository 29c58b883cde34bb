// Package users has the commands that work on the database: schema, export, import and
// encryption keys.
package users

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
)

const exportAbout = `Writes all users, by id, as lines of JSON: a first line that names the format,
one for each user, and a last one with their number. Access tokens are sealed, as
they are in the database, or left out.

Instances may go on serving. Each user is shown as at some moment of the export,
but not all as at the same moment: pg_dump does that.

A file is written beside its place, as <file>.partial, and put there when it is
whole. What was broken off is continued by --resume. A link to a file stays: the
place is where it leads. To what is no file, such as a device, redirect standard
output.`

// exportOptions say what is exported, and where to.
type exportOptions struct {
	output  string // where the file is to be, and no link; "": standard output
	resume  bool
	tokens  archive.Tokens
	afterID int64
}

// header is the first line of what is exported while lastID is the greatest id.
func (o exportOptions) header(lastID int64) archive.Header {
	return archive.Header{Tokens: o.tokens, LastID: lastID, AfterID: o.afterID}
}

// Export is the command export.
var Export = cli.Command{Name: "export", Summary: "write all users to a file", Run: runExport}

func runExport(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("[--output <file>]", exportAbout)
	var o exportOptions
	flags.StringVar(&o.output, "output", "", "the `file` to write, instead of standard output")
	flags.BoolVar(&o.resume, "resume", false, "go on with what is in <file>.partial, if there is anything")
	tokens := flags.String("tokens", string(archive.Sealed), "`sealed`, or omit to leave access tokens out")
	flags.Int64Var(&o.afterID, "after-id", 0, "leave out the users up to this `id`")
	if status, done := flags.Parse(args, 0); done {
		return status
	}
	o.tokens = archive.Tokens(*tokens)
	switch {
	case o.tokens != archive.Sealed && o.tokens != archive.Omit:
		return flags.Wrong(errors.New("--tokens is sealed or omit"))
	case o.afterID < 0 || o.afterID > math.MaxInt32:
		return flags.Wrong(errors.New("--after-id is no user id"))
	case o.resume && o.output == "":
		return flags.Wrong(errors.New("--resume needs --output"))
	case o.resume && o.afterID != 0:
		return flags.Wrong(errors.New("--resume finds out by itself where to go on, without --after-id"))
	}
	if o.output != "" {
		place, err := exportPlace(o.output)
		if err != nil {
			return flags.Wrong(err)
		}
		o.output = place
	}
	c, err := config.Load(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	if err := export(ctx, c, o, env.Stdout, env.Stderr); err != nil {
		return env.Fail(err)
	}
	return cli.StatusOK
}

func export(ctx context.Context, c *config.Config, o exportOptions, stdout, stderr io.Writer) error {
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
		written, err := archive.NewWriter(stdout, o.header(lastID))
		if err != nil {
			return err
		}
		e := &exporting{users: users, archive: written, at: o.afterID, lastID: lastID}
		return e.run(ctx, stderr)
	}
	file, err := openExportFile(o, lastID)
	if err != nil {
		return err
	}
	defer file.close()
	if !file.whole {
		e := &exporting{users: users, archive: file.archive, at: file.lastID, lastID: lastID, toFile: true}
		if err := e.run(ctx, stderr); err != nil {
			return err
		}
	}
	return file.finish()
}

// An exporting is one run of export.
type exporting struct {
	users   *store.Exporter
	archive *archive.Writer
	at      int64 // the id of the last user who has surely reached the file
	lastID  int64 // the greatest there was at the start
	toFile  bool
}

// run writes what is left to be written.
func (e *exporting) run(ctx context.Context, stderr io.Writer) error {
	progress := newProgress(stderr, "exporting")
	before := e.archive.Users()
	err := e.copy(ctx, progress)
	progress.clear()
	if err == nil {
		err = e.archive.Close()
	}
	if err != nil {
		goOn := fmt.Sprintf("--after-id %d exports the others, to another file", e.at)
		if e.toFile {
			goOn = "--resume goes on from there"
		}
		return fmt.Errorf("%w; broken off after user %d: %s", err, e.at, goOn)
	}
	fmt.Fprintf(stderr, "%d users exported", e.archive.Users()-before)
	if before > 0 {
		fmt.Fprintf(stderr, ", %d with those that were there", e.archive.Users())
	}
	fmt.Fprintln(stderr)
	return nil
}

var errStopped = errors.New("asked to stop")

func (e *exporting) copy(ctx context.Context, progress *progress) error {
	for {
		page, err := e.users.Page(ctx, e.at)
		switch {
		case ctx.Err() != nil:
			return errStopped
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
