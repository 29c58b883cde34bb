package users

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/cmd/internal/operate"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

const userAbout = `Shows or erases what the service has about one user.

  glotpod-ident user show 7      prints the user, without access tokens
  glotpod-ident user changes 7   prints the requests about the user that the log has
  glotpod-ident user erase 7     deletes the user, and takes what it was out of the log

show and changes read the database. erase first has the service delete the user, so
that the deletion is notified as any other; a user that was deleted already can be
erased too. Then it takes name, email, picture and accounts out of the log and of the
notifications that are not sent. It leaves that there were changes: their numbers,
operations and times. Rows of the last 24 hours keep a digest of the request, and
the message if it was refused, because it may be replayed: erase says how many, and is
to be run again later. It may be run again at any time, also after an interruption.
It asks before it begins, unless --yes is given.

erase cannot reach what has left the service: notifications in queues, the data of
subscribers, exports, and backups of the database.

Exit status: 0 after success; 1 if nothing is known of the user, or erase was
not confirmed or not completed; 2 for wrong arguments; 78 if the settings or the schema are
wrong; 129 if RabbitMQ or PostgreSQL is unreachable.`

// User is the command user.
var User = cli.Command{Name: "user", Summary: "show or erase what there is about one user", Run: runUser}

// userFlags are the flags of the command user.
type userFlags struct {
	asJSON  bool
	yes     bool
	timeout time.Duration
}

func runUser(ctx context.Context, env *cli.Env, args []string) int {
	flags := env.NewFlags("show|changes|erase <id> [--json] [--yes]", userAbout)
	var f userFlags
	flags.BoolVar(&f.asJSON, "json", false, "print JSON, for programs: a user, or a change in each line")
	flags.BoolVar(&f.yes, "yes", false, "erase without asking")
	flags.DurationVar(&f.timeout, "timeout", time.Minute, "how long the service may take to delete the user")
	words, status, done := flags.ParseMixed(args)
	if done {
		return status
	}
	commands := map[string]func(context.Context, *cli.Env, *pgx.Conn, *config.Config, int64, userFlags) error{
		"show": showUser, "changes": showUserLog, "erase": eraseUser,
	}
	if len(words) != 2 || commands[words[0]] == nil {
		flags.Usage()
		return cli.StatusUsage
	}
	id, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil || id < 1 {
		return flags.Wrong(fmt.Errorf("%q is not the id of a user", words[1]))
	}
	c, err := config.Load(env.Environ)
	if err != nil {
		return env.Fail(err)
	}
	options := connect.Store(c, zap.NewNop())
	options.Name = "user"
	opening, cancel := context.WithTimeout(ctx, connect.Timeout)
	defer cancel()
	conn, err := store.Connect(opening, options)
	if err != nil {
		return env.Fail(connect.StoreError(err))
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := store.CheckSchema(ctx, conn); err != nil {
		return env.Fail(connect.StoreError(err))
	}
	if err := commands[words[0]](ctx, env, conn, c, id, f); err != nil {
		return env.Fail(connect.StoreError(err))
	}
	return cli.StatusOK
}

var errUnknownUser = errors.New("nothing is known of this user")

// A shownUser is a user as list shows it, in JSON.
type shownUser struct {
	ID         int64         `json:"id"`
	Name       string        `json:"name"`
	Email      string        `json:"email"`
	PictureURL *string       `json:"picture_url,omitempty"`
	GitHub     *shownAccount `json:"github,omitempty"`
	Facebook   *shownAccount `json:"facebook,omitempty"`
}

type shownAccount struct {
	ID int64 `json:"id"`
}

func showUser(ctx context.Context, env *cli.Env, conn *pgx.Conn, _ *config.Config, id int64, f userFlags) error {
	u, err := store.FindUser(ctx, conn, id)
	if err != nil {
		return err
	}
	if u == nil {
		return errUnknownUser
	}
	shown := shownUser{ID: u.ID, Name: u.Name, Email: u.Email, PictureURL: u.PictureURL}
	for into, account := range map[**shownAccount]*actor.Account{&shown.GitHub: u.GitHub, &shown.Facebook: u.Facebook} {
		if account != nil {
			*into = &shownAccount{account.ID}
		}
	}
	if f.asJSON {
		return printLine(env.Stdout, shown)
	}
	table := cli.NewTable(env.Stdout, "id", strconv.FormatInt(u.ID, 10))
	table.Row("changes", strconv.FormatInt(u.Version.Sequence, 10))
	table.Row("name", strconv.Quote(u.Name))
	table.Row("email", strconv.Quote(u.Email))
	if u.PictureURL != nil {
		table.Row("picture", strconv.Quote(*u.PictureURL))
	}
	for name, account := range map[string]*shownAccount{"github": shown.GitHub, "facebook": shown.Facebook} {
		if account != nil {
			table.Row(name, strconv.FormatInt(account.ID, 10))
		}
	}
	table.Flush()
	return nil
}

// A shownRequest is a row of the log, in JSON.
type shownRequest struct {
	Time      string          `json:"time"`
	Sequence  *int64          `json:"sequence,omitempty"`
	Operation string          `json:"operation"`
	Error     *string         `json:"error,omitempty"`
	Caller    *string         `json:"caller,omitempty"`
	Change    json.RawMessage `json:"change,omitempty"`
}

func showUserLog(ctx context.Context, env *cli.Env, conn *pgx.Conn, _ *config.Config, id int64, f userFlags) error {
	known := false
	table := cli.NewTable(env.Stdout, "TIME", "CHANGE", "OPERATION", "CALLER", "WHAT")
	err := store.UserLog(ctx, conn, id, func(r store.LoggedRequest) error {
		known = true
		if f.asJSON {
			return printLine(env.Stdout, shownRequest{actor.FormatTime(r.At), r.Sequence, r.Operation, r.Code, r.Caller, r.Change})
		}
		number, caller, what := "-", "-", strconv.QuoteToGraphic(string(r.Change))
		what = strings.ReplaceAll(what[1:len(what)-1], `\"`, `"`)
		if r.Sequence != nil {
			number = strconv.FormatInt(*r.Sequence, 10)
		}
		if r.Caller != nil {
			caller = strconv.QuoteToGraphic(*r.Caller)
		}
		if r.Code != nil {
			what = *r.Code
		}
		table.Row(actor.FormatTime(r.At), number, r.Operation, caller, what)
		return nil
	})
	if err == nil && !known {
		err = errUnknownUser
	}
	if err == nil && !f.asJSON {
		table.Flush()
	}
	return err
}

func printLine(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

func eraseUser(ctx context.Context, env *cli.Env, conn *pgx.Conn, c *config.Config, id int64, f userFlags) error {
	if !f.yes {
		fmt.Fprintf(env.Stderr, "This deletes user %d and erases what the log says about it, for good. Type the id to go on: ", id)
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if strings.TrimSpace(line) != strconv.FormatInt(id, 10) {
			return errors.New("not confirmed")
		}
	}
	deleting, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	deleted, err := operate.DeleteUser(deleting, c, env.Version, id)
	if err != nil {
		return err
	}
	erased, err := store.EraseUser(ctx, conn, id)
	if err != nil {
		return err
	}
	if !deleted && !erased.Known {
		return errUnknownUser
	}
	when := ", and"
	if !deleted {
		when = " before;"
	}
	fmt.Fprintf(env.Stdout, "user %d was deleted%s %d rows of the log were erased\n", id, when, erased.Rows)
	if erased.Left > 0 {
		fmt.Fprintf(env.Stdout, "%d rows keep the digest of a request for replays: erase again in 24 hours\n", erased.Left)
	}
	return nil
}
