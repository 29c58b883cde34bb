package users

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
	"github.com/glotpod/ident/store/archive"
)

const importAbout = `Imports the users of a file that export has written. Each user keeps its id. "-" is
standard input.

An import does not change or delete users. A user that exists with the same content
is skipped, so that an import that was interrupted can be run again. A line that is
not a valid user, has a token that none of the keys decrypts, or conflicts with an
existing user is reported on standard output with its number. The other lines are
imported.

Tokens are encrypted with the first key of database.encryption_key. Instances can
run during an import. They send no notifications for imported users.

With --json, each line of standard output is a document. Lines of the file that are
not imported have the keys line, kind (malformed, conflict or unreadable) and reason.
The last document has imported (with --dry-run: to be imported), already_there,
conflicts, unreadable, malformed and last_id (ids of new users are greater).

Exit status: 0 if the database has each user of the file, else 1.`

const (
	// maxLineBodies bounds a line, in multiples of limits.body_bytes: a user has at
	// most four fields of that length, each of which may be six times as long in JSON.
	maxLineBodies = 24

	// maxBatchBytes is the size in bytes of the lines at which a transaction gets no
	// more users.
	maxBatchBytes = 4 << 20
)

// NewImport returns the command import.
func NewImport(env *cli.Env) *cobra.Command {
	var o store.ImportOptions
	var asJSON bool
	c := &cobra.Command{
		Use:   "import <file>",
		Short: "import users from a file",
		Long:  importAbout,
		RunE:  func(c *cobra.Command, args []string) error { return runImport(c.Context(), env, args[0], o, asJSON) },
	}
	cli.JSONFlag(c, &asJSON)
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "change nothing, only report; a conflict between two lines of the file is found only if they are close to each other")
	c.Flags().BoolVar(&o.EmptyTokens, "empty-tokens", false, "import accounts of a file without access tokens, with an empty token")
	return c
}

func runImport(ctx context.Context, env *cli.Env, path string, o store.ImportOptions, asJSON bool) error {
	c, err := config.LoadCommand(env.Environ)
	if err != nil {
		return err
	}
	im := &importing{options: o, asJSON: asJSON, stdout: env.Stdout, stderr: env.Stderr, file: os.Stdin}
	if path != "-" {
		if im.file, err = os.Open(path); err != nil {
			return err
		}
		defer im.file.Close()
	}
	if err := im.run(ctx, c); err != nil {
		return err
	}
	if im.reported > 0 {
		return cli.WithStatus(cli.StatusFailure, nil)
	}
	return nil
}

// An importing is one run of import.
type importing struct {
	options        store.ImportOptions
	asJSON         bool
	file           *os.File
	stdout, stderr io.Writer

	users    *store.Importer
	reader   *archive.Reader
	read     int64 // bytes of the file
	size     int64 // of the file in bytes; 0: unknown
	progress *progress

	batch    []archive.User
	lines    []int64   // the line numbers of batch
	problems []problem // of the lines since the last batch
	batchAt  int64     // the value of read when the batch began
	reserved int64     // new users get greater ids

	outcomes  [store.Unreadable + 1]int64
	malformed int64 // lines
	reported  int64 // problems
}

// A problem is the reason why a line is not imported.
type problem struct {
	Line   int64  `json:"line"`
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
}

// An importSummary says how many users and lines had which result.
type importSummary struct {
	Imported     int64 `json:"imported"`
	AlreadyThere int64 `json:"already_there"`
	Conflicts    int64 `json:"conflicts"`
	Unreadable   int64 `json:"unreadable"`
	Malformed    int64 `json:"malformed"`
	LastID       int64 `json:"last_id"`
}

// Read reads the file and counts the bytes.
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
	im.reader = archive.NewReader(im, archive.Limits{Line: maxLineBodies * c.Limits.BodyBytes, Field: c.Limits.BodyBytes})
	im.progress = newProgress(im.stderr, "importing")
	err = im.copy(ctx)
	im.progress.clear()
	im.printSummary()
	return err
}

// copy imports the lines until the end of the file.
func (im *importing) copy(ctx context.Context) error {
	for {
		u, err := im.reader.Next()
		var line *archive.LineError
		switch {
		case ctx.Err() != nil:
			return im.interrupted(ctx, errInterrupted)
		case errors.As(err, &line):
			im.malformed++
			im.problems = append(im.problems, problem{line.Line, "malformed", line.Reason})
		case errors.Is(err, io.EOF):
			return im.importBatch(ctx)
		case err != nil:
			return im.interrupted(ctx, err)
		case im.reader.Header().Tokens == archive.Omit && !im.options.EmptyTokens:
			return errors.New("the file has no access tokens, which accounts need; --empty-tokens gives each account an empty one")
		default:
			if last := im.reader.Header().LastID; last > im.reserved {
				if err := im.users.ReserveIDs(ctx, last); err != nil {
					return connect.StoreError(err)
				}
				im.reserved = last
			}
			im.batch, im.lines = append(im.batch, *u), append(im.lines, im.reader.Line())
		}
		if len(im.batch)+len(im.problems) >= store.MaxImportUsers || im.read-im.batchAt > maxBatchBytes {
			if err := im.importBatch(ctx); err != nil {
				return err
			}
		}
	}
}

// interrupted imports the lines that were read, and returns the error of an import that
// ends early.
func (im *importing) interrupted(ctx context.Context, cause error) error {
	if err := im.importBatch(ctx); err != nil {
		return err
	}
	if wrong := (*archive.ArchiveError)(nil); errors.As(cause, &wrong) {
		return cause // to run it again would not help
	}
	return fmt.Errorf("%w; the import was interrupted at line %d of the file: run it again to continue", cause, im.reader.Line())
}

// importBatch imports the batch and reports the problems. It completes even if ctx is
// done.
func (im *importing) importBatch(ctx context.Context) error {
	if len(im.batch) > 0 {
		outcomes, err := im.users.Import(context.WithoutCancel(ctx), im.batch)
		if err != nil {
			return fmt.Errorf("%w; the import was interrupted before line %d of the file: run it again to continue", connect.StoreError(err), im.lines[0])
		}
		for i, outcome := range outcomes {
			im.outcomes[outcome.Kind]++
			if kind := outcomeNames[outcome.Kind]; kind != "" {
				im.problems = append(im.problems, problem{im.lines[i], kind, fmt.Sprintf("user %d: %s", im.batch[i].ID, outcome.Reason)})
			}
		}
	}
	im.report()
	im.batch, im.lines, im.problems, im.batchAt = im.batch[:0], im.lines[:0], im.problems[:0], im.read
	share := 0.0
	if im.size > 0 {
		share = float64(im.read) / float64(im.size)
	}
	users := int64(0)
	for _, n := range im.outcomes {
		users += n
	}
	im.progress.at(users, share)
	return nil
}

// outcomeNames are the names of the outcomes that are reported.
var outcomeNames = map[store.ImportOutcome]string{store.Conflicting: "conflict", store.Unreadable: "unreadable"}

// report prints the problems in the order of the lines.
func (im *importing) report() {
	if len(im.problems) == 0 {
		return
	}
	im.reported += int64(len(im.problems))
	slices.SortFunc(im.problems, func(a, b problem) int { return cmp.Compare(a.Line, b.Line) })
	im.progress.clear()
	for _, p := range im.problems {
		if im.asJSON {
			cli.PrintJSONLine(im.stdout, p)
		} else {
			fmt.Fprintf(im.stdout, "line %d: %s: %s\n", p.Line, p.Kind, p.Reason)
		}
	}
}

// printSummary prints how many users and lines had which result.
func (im *importing) printSummary() {
	s := importSummary{im.outcomes[store.Imported], im.outcomes[store.AlreadyThere], im.outcomes[store.Conflicting],
		im.outcomes[store.Unreadable], im.malformed, im.users.ReservedIDs()}
	if im.asJSON {
		cli.PrintJSONLine(im.stdout, s)
		return
	}
	did := "imported"
	if im.options.DryRun {
		did = "to be imported"
	}
	fmt.Fprintf(im.stderr, "%d users %s, %d already there, %d conflicts, %d unreadable, %d lines malformed; ids of new users are greater than %d\n",
		s.Imported, did, s.AlreadyThere, s.Conflicts, s.Unreadable, s.Malformed, s.LastID)
}
