package users

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/glotpod/ident/actor"
	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/cmd/internal/connect"
	"github.com/glotpod/ident/cmd/internal/operate"
	"github.com/glotpod/ident/config"
	"github.com/glotpod/ident/store"
)

const userAbout = `Shows or erases what the service has about one user.

show and changes read the database. erase has the service delete the user first. waiting
asks the instances.`

const showAbout = `Prints a user, without access tokens.

The keys of the JSON document are id, name, email, picture_url, github and facebook
(each with id). What the user does not have is left out.

Exit status: 1 if there is no such user.`

const changesAbout = `Prints the requests about a user that the log has, the oldest first.

With --json, each line is a document with the keys time, sequence (the number of the
change), operation, error, caller and change. What does not apply is left out.

Exit status: 1 if nothing is known of the user.`

const eraseAbout = `Deletes a user, and takes what it was out of the log.

erase first has the service delete the user, so that the deletion is notified as any
other; a user that was deleted already can be erased too. Then it takes name, email,
picture and accounts out of the log and of the notifications that are not sent. It
leaves that there were changes: their numbers, operations and times. Rows of the last
24 hours keep a digest of the request, and the message if it was refused, because it
may be replayed: erase says how many, and is to be run again later. It may be run again
at any time, also after an interruption. It asks before it begins, unless --yes is
given.

erase cannot reach what has left the service: notifications in queues, the data of
subscribers, exports, and backups of the database.

The keys of the JSON document are id, deleted (whether this run has deleted the user),
rows (of the log that were erased) and left (rows that keep a digest).

Exit status: 1 if nothing is known of the user, or erase was not confirmed or not
completed.`

// NewUser returns the command user.
func NewUser(env *cli.Env) *cobra.Command {
	user := &cobra.Command{Use: "user", Short: "show or erase what there is about one user", Long: userAbout}
	var asJSON bool
	var o eraseOptions
	show := &cobra.Command{Use: "show <id>", Short: "print the user, without access tokens", Long: showAbout,
		RunE: withUser(env, func(ctx context.Context, conn *pgx.Conn, _ *config.Config, id int64) error {
			return showUser(ctx, env, conn, id, asJSON)
		})}
	changes := &cobra.Command{Use: "changes <id>", Short: "print the requests about the user that the log has", Long: changesAbout,
		RunE: withUser(env, func(ctx context.Context, conn *pgx.Conn, _ *config.Config, id int64) error {
			return showUserLog(ctx, env, conn, id, asJSON)
		})}
	erase := &cobra.Command{Use: "erase <id>", Short: "delete the user, and take what it was out of the log", Long: eraseAbout,
		RunE: withUser(env, func(ctx context.Context, conn *pgx.Conn, c *config.Config, id int64) error {
			return eraseUser(ctx, env, conn, c, id, o, asJSON)
		})}
	erase.Flags().BoolVar(&o.yes, "yes", false, "erase without asking")
	erase.Flags().DurationVar(&o.timeout, "timeout", time.Minute, "how long the service may take to delete the user")
	for _, c := range []*cobra.Command{show, changes, erase} {
		cli.JSONFlag(c, &asJSON)
		user.AddCommand(c)
	}
	user.AddCommand(operate.NewWaiting(env))
	return user
}

// eraseOptions are the options of the command user erase.
type eraseOptions struct {
	yes     bool
	timeout time.Duration
}

// withUser returns the function of a command whose argument is the id of a user. It calls do with
// a connection to the database.
func withUser(env *cli.Env, do func(ctx context.Context, conn *pgx.Conn, c *config.Config, id int64) error) func(*cobra.Command, []string) error {
	return func(command *cobra.Command, args []string) error {
		ctx := command.Context()
		id, err := operate.UserID(args[0])
		if err != nil {
			return err
		}
		c, err := config.LoadCommand(env.Environ)
		if err != nil {
			return err
		}
		options := connect.Store(c, zap.NewNop())
		options.Name = "user"
		opening, cancel := context.WithTimeout(ctx, connect.Timeout)
		defer cancel()
		conn, err := store.Connect(opening, options)
		if err != nil {
			return connect.StoreError(err)
		}
		defer conn.Close(context.WithoutCancel(ctx))
		if _, err := store.CheckSchema(ctx, conn); err != nil {
			return connect.StoreError(err)
		}
		if err := do(ctx, conn, c, id); err != nil {
			return connect.StoreError(err)
		}
		return nil
	}
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

func showUser(ctx context.Context, env *cli.Env, conn *pgx.Conn, id int64, asJSON bool) error {
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
	if asJSON {
		return env.PrintJSON(shown)
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
	return table.Flush()
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

func showUserLog(ctx context.Context, env *cli.Env, conn *pgx.Conn, id int64, asJSON bool) error {
	known := false
	table := cli.NewTable(env.Stdout, "TIME", "CHANGE", "OPERATION", "CALLER", "WHAT")
	err := store.UserLog(ctx, conn, id, func(r store.LoggedRequest) error {
		known = true
		if asJSON {
			return cli.PrintJSONLine(env.Stdout, shownRequest{actor.FormatTime(r.At), r.Sequence, r.Operation, r.Code, r.Caller, r.Change})
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
	if err == nil && !asJSON {
		err = table.Flush()
	}
	return err
}

// erasure is the output of user erase --json.
type erasure struct {
	ID      int64 `json:"id"`
	Deleted bool  `json:"deleted"`
	Rows    int64 `json:"rows"`
	Left    int64 `json:"left"`
}

func eraseUser(ctx context.Context, env *cli.Env, conn *pgx.Conn, c *config.Config, id int64, o eraseOptions, asJSON bool) error {
	if !o.yes {
		fmt.Fprintf(env.Stderr, "This deletes user %d and erases what the log says about it, for good. Type the id to go on: ", id)
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		if strings.TrimSpace(line) != strconv.FormatInt(id, 10) {
			return errors.New("not confirmed")
		}
	}
	deleting, cancel := context.WithTimeout(ctx, o.timeout)
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
	if asJSON {
		return env.PrintJSON(erasure{id, deleted, erased.Rows, erased.Left})
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
