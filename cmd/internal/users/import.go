package users

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
)

const importAbout = `Brings the users of a file that export has written into the database, each under
the id that it has there. "-" is standard input.

Nobody is changed or deleted. Who is there already, with the same content, is left
alone: so an import that was broken off is run again. A line that is no valid user,
one with a token that none of the keys opens, and one that conflicts with what is
there is reported on standard output, with its number; the others are imported.

Tokens are sealed with the first key of database.encryption_key. Instances may go
on serving. They send no notifications of users who are imported.

Ends with status 0 when each user of the file is there, else with 1.`

// importLine is how long a line may be, in multiples of limits.body_bytes: a user
// whom the service has made has four fields of that length at most, each of which
// may take six times as much in JSON.
const importLine = 24

// importBytes is how many bytes of users, but for the last, one transaction may
// bring in.
const importBytes = 4 << 20

// Import is the command import.
var Import = cli.Command{Name: "import", Summary: "bring users in from a file", Run: runImport}

func runImport(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("<file>", importAbout)
	var o store.ImportOptions
	flags.BoolVar(&o.DryRun, "dry-run", false, "change nothing, only report; conflicts between two lines of the file show only if they are near each other")
	flags.BoolVar(&o.EmptyTokens, "empty-tokens", false, "import accounts whose tokens were left out, with an empty token")
	words, status, done := flags.ParseMixed(args)
	if done {
		return status
	}
	if len(words) != 1 {
		return flags.Wrong(errors.New("one file is needed, or - for standard input"))
	}
	c, err := config.Load(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	im := &importing{options: o, stdout: env.Stdout, stderr: env.Stderr, file: os.Stdin}
	if words[0] != "-" {
		if im.file, err = os.Open(words[0]); err != nil {
			return env.Fail(err)
		}
		defer im.file.Close()
	}
	if err := im.run(ctx, c); err != nil {
		return env.Fail(err)
	}
	if im.reported > 0 {
		return cli.StatusFailure
	}
	return cli.StatusOK
}

// An importing is one run of import.
type importing struct {
	options        store.ImportOptions
	file           *os.File
	stdout, stderr io.Writer

	users    *store.Importer
	reader   *archive.Reader
	read     int64 // bytes of the file
	size     int64 // of the file; 0: not known
	progress *progress

	batch    []archive.User
	lines    []int64   // of batch
	problems []problem // of lines that were read since the last batch
	begun    int64     // what read was then
	setAside int64     // ids up to this one are not drawn for new users

	fates     [store.Unreadable + 1]int64
	malformed int64 // lines
	reported  int64 // problems
}

// A problem is why a line is not imported.
type problem struct {
	line         int64
	what, reason string
}

// Read reads the file, and counts what was read.
func (im *importing) Read(p []byte) (int, error) {
	n, err := im.file.Read(p)
	im.read += int64(n)
	return n, err
}

func (im *importing) run(ctx context.Context, c *config.Config) (err error) {
	im.users, err = store.OpenImporter(ctx, connect.Store(c, zap.NewNop()), im.options)
	if err != nil {
		return connect.StoreError(err)
	}
	defer im.users.Close()
	if info, err := im.file.Stat(); err == nil && info.Mode().IsRegular() {
		im.size = info.Size()
	}
	im.reader = archive.NewReader(im, archive.Limits{Line: importLine * c.Limits.BodyBytes, Field: c.Limits.BodyBytes})
	im.progress = newProgress(im.stderr, "importing")
	err = im.copy(ctx)
	im.progress.clear()
	im.sum()
	return err
}

// copy imports what can be, until the end of the file.
func (im *importing) copy(ctx context.Context) error {
	for {
		u, err := im.reader.Next()
		var line *archive.LineError
		switch {
		case ctx.Err() != nil:
			return im.brokenOff(ctx, errStopped)
		case errors.As(err, &line):
			im.malformed++
			im.problems = append(im.problems, problem{line.Line, "malformed", line.Reason})
		case err == io.EOF:
			return im.put(ctx)
		case err != nil:
			return im.brokenOff(ctx, err)
		case im.reader.Header().Tokens == archive.Omit && !im.options.EmptyTokens:
			return errors.New("the file was exported without access tokens, which a user cannot do without; --empty-tokens gives each account an empty one")
		default:
			if last := im.reader.Header().LastID; last > im.setAside {
				if err := im.users.ReserveIDs(ctx, last); err != nil {
					return connect.StoreError(err)
				}
				im.setAside = last
			}
			im.batch, im.lines = append(im.batch, *u), append(im.lines, im.reader.Line())
		}
		if len(im.batch)+len(im.problems) >= store.MaxImportUsers || im.read-im.begun > importBytes {
			if err := im.put(ctx); err != nil {
				return err
			}
		}
	}
}

// brokenOff imports what was read before the import is broken off.
func (im *importing) brokenOff(ctx context.Context, cause error) error {
	if err := im.put(ctx); err != nil {
		return err
	}
	if wrong := (*archive.ArchiveError)(nil); errors.As(cause, &wrong) {
		return cause // again would be no better
	}
	return fmt.Errorf("%w; the import ends at line %d of the file: run it again to go on", cause, im.reader.Line())
}

// put imports what was read, and reports what is not imported. It does so to the
// end, though ctx may be done.
func (im *importing) put(ctx context.Context) error {
	if len(im.batch) > 0 {
		fates, err := im.users.Import(context.WithoutCancel(ctx), im.batch)
		if err != nil {
			return fmt.Errorf("%w; broken off before line %d of the file: run the import again to go on", connect.StoreError(err), im.lines[0])
		}
		for i, fate := range fates {
			im.fates[fate.Kind]++
			if what := fateNames[fate.Kind]; what != "" {
				im.problems = append(im.problems, problem{im.lines[i], what, fmt.Sprintf("user %d: %s", im.batch[i].ID, fate.Reason)})
			}
		}
	}
	im.report()
	im.batch, im.lines, im.problems, im.begun = im.batch[:0], im.lines[:0], im.problems[:0], im.read
	share := 0.0
	if im.size > 0 {
		share = float64(im.read) / float64(im.size)
	}
	users := int64(0)
	for _, n := range im.fates {
		users += n
	}
	im.progress.at(users, share)
	return nil
}

// fateNames are those of the fates that are reported.
var fateNames = map[store.ImportOutcome]string{store.Conflicting: "conflict", store.Unreadable: "unreadable"}

// report reports the problems by line.
func (im *importing) report() {
	if len(im.problems) == 0 {
		return
	}
	im.reported += int64(len(im.problems))
	slices.SortFunc(im.problems, func(a, b problem) int { return cmp.Compare(a.line, b.line) })
	im.progress.clear()
	for _, p := range im.problems {
		fmt.Fprintf(im.stdout, "line %d: %s: %s\n", p.line, p.what, p.reason)
	}
}

// sum says what became of all.
func (im *importing) sum() {
	did := "imported"
	if im.options.DryRun {
		did = "to be imported"
	}
	fmt.Fprintf(im.stderr, "%d users %s, %d already there, %d conflicts, %d unreadable, %d lines malformed; ids of new users are greater than %d\n",
		im.fates[store.Imported], did, im.fates[store.AlreadyThere], im.fates[store.Conflicting], im.fates[store.Unreadable], im.malformed, im.users.ReservedIDs())
}
