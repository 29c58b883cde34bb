package users

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/store"
)

const (
	// The intervals of progress reports on a terminal and elsewhere.
	rekeyTerminalInterval = 100 * time.Millisecond
	rekeyLineInterval     = 30 * time.Second

	rekeyBarWidth = 30
)

// A rekeyProgress reports the progress of rekey.
type rekeyProgress struct {
	report *cli.Progress
	passes int       // that have started
	begun  time.Time // when the last of them started
}

func newRekeyProgress(stderr io.Writer) *rekeyProgress {
	return &rekeyProgress{report: cli.NewProgress(stderr, rekeyTerminalInterval, rekeyLineInterval)}
}

// at reports the progress if a report is due.
func (p *rekeyProgress) at(at store.RekeyProgress) {
	if at.Passes != p.passes {
		p.passes, p.begun = at.Passes, time.Now()
	}
	if !p.report.Due() && at.Fraction < 1 {
		return
	}
	read := at.Tokens.Read + at.Notifications.Read
	text := fmt.Sprintf("%3.0f %%  %d read, %d encrypted, %d unreadable", 100*at.Fraction,
		read, at.Tokens.Resealed+at.Notifications.Resealed, at.Tokens.Unreadable+at.Notifications.Unreadable)
	if took := time.Since(p.begun); at.Fraction > 0 && at.Fraction < 1 && took >= time.Second {
		left := time.Duration(float64(took) * (1 - at.Fraction) / at.Fraction)
		text += fmt.Sprintf(", about %v left", left.Round(time.Second))
	}
	between := ":"
	if p.report.OnTerminal() {
		full := int(at.Fraction * rekeyBarWidth)
		between = " [" + strings.Repeat("#", full) + strings.Repeat("-", rekeyBarWidth-full) + "]"
	}
	p.report.Report(fmt.Sprintf("pass %d%s %s", at.Passes, between, text))
}

// clear erases the line on the terminal.
func (p *rekeyProgress) clear() { p.report.Clear() }

// A rekeyReport is the result of rekey.
type rekeyReport struct {
	store.RekeyReport
	dryRun      bool
	interrupted bool
}

// unreadable is the number of values that no key decrypts.
func (r *rekeyReport) unreadable() int64 { return r.Tokens.Unreadable + r.Notifications.Unreadable }

// succeeded says whether rekey has reached its goal.
func (r *rekeyReport) succeeded() bool { return (r.Done || r.dryRun) && r.unreadable() == 0 }

// print prints the report for people, or as JSON.
func (r *rekeyReport) print(env *cli.Env, asJSON bool) error {
	if asJSON {
		return r.printJSON(env)
	}
	var b bytes.Buffer
	table := cli.NewTable(&b, "", "READ", "ENCRYPTED", "WITH ANOTHER KEY", "UNREADABLE")
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	for name, c := range r.counts {
		table.Row(name, n(c.Read), n(c.Resealed), n(c.Stale), n(c.Unreadable))
	}
	table.Flush()
	if len(r.Unreadable) > 0 {
		fmt.Fprintln(&b, "\nNo key decrypts:")
		for _, u := range r.Unreadable {
			if u.Service != "" {
				fmt.Fprintf(&b, "  user %d, the access token of %s\n", u.UserID, u.Service)
			} else {
				fmt.Fprintf(&b, "  user %d, the notification %d\n", u.UserID, u.NotificationID)
			}
		}
		if more := r.unreadable() - int64(len(r.Unreadable)); more > 0 {
			fmt.Fprintf(&b, "  and %d more\n", more)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", r.verdict())
	if _, err := env.Stdout.Write(b.Bytes()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return nil
}

// counts yields the counts of each kind of values.
func (r *rekeyReport) counts(yield func(name string, c store.RekeyCount) bool) {
	_ = yield("access tokens", r.Tokens) && yield("notifications", r.Notifications)
}

func (r *rekeyReport) verdict() string {
	switch stale := r.Tokens.Stale + r.Notifications.Stale; {
	case r.interrupted:
		return fmt.Sprintf("Interrupted in pass %d. Run rekey again to continue.", r.Passes)
	case r.unreadable() > 0:
		return "Values that no key decrypts were not changed. Is a key missing in database.encryption_key?"
	case r.Done:
		return "All values are encrypted with the first key. The other keys can be removed."
	case r.dryRun:
		return fmt.Sprintf("Nothing was changed. Without --dry-run, %d values would be encrypted with the first key.", stale)
	default:
		return "A program still encrypts with another key, or keeps rows locked.\n" +
			"If each instance runs with the new key as the first, run rekey again."
	}
}

// printJSON prints the report for programs.
func (r *rekeyReport) printJSON(env *cli.Env) error {
	type count struct {
		Read       int64 `json:"read"`
		Resealed   int64 `json:"resealed"`
		Stale      int64 `json:"stale"`
		Unreadable int64 `json:"unreadable"`
	}
	type unreadable struct {
		UserID         int64  `json:"user_id"`
		Service        string `json:"service,omitempty"`
		NotificationID int64  `json:"notification_id,omitempty"`
	}
	list := make([]unreadable, len(r.Unreadable))
	for i, u := range r.Unreadable {
		list[i] = unreadable(u)
	}
	return env.PrintJSON(struct {
		DryRun        bool         `json:"dry_run"`
		Done          bool         `json:"done"`
		Passes        int          `json:"passes"`
		AccessTokens  count        `json:"access_tokens"`
		Notifications count        `json:"notifications"`
		Unreadable    []unreadable `json:"unreadable"`
	}{r.dryRun, r.Done, r.Passes, count(r.Tokens), count(r.Notifications), list})
}
