package users

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/store"
)

const (
	// rekeyLineEvery is how often progress is told where there is no terminal,
	// and rekeyShowEvery where there is one.
	rekeyLineEvery = 30 * time.Second
	rekeyShowEvery = 100 * time.Millisecond

	rekeyBarWidth = 30
)

// A rekeyProgress tells how far rekey is.
type rekeyProgress struct {
	report *cli.Progress
	passes int       // that have begun
	begun  time.Time // the last of them
}

func newRekeyProgress(stderr io.Writer) *rekeyProgress {
	return &rekeyProgress{report: cli.NewProgress(stderr, rekeyShowEvery, rekeyLineEvery)}
}

// at may tell how far it is.
func (p *rekeyProgress) at(at store.RekeyProgress) {
	if at.Passes != p.passes {
		p.passes, p.begun = at.Passes, time.Now()
	}
	if !p.report.Due() && at.Fraction < 1 {
		return
	}
	read := at.Tokens.Read + at.Notifications.Read
	text := fmt.Sprintf("%3.0f %%  %d read, %d re-sealed, %d unreadable", 100*at.Fraction,
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

// clear makes way for other lines.
func (p *rekeyProgress) clear() { p.report.Clear() }

// A rekeyReport is what rekey has to say in the end.
type rekeyReport struct {
	store.RekeyReport
	dryRun      bool
	interrupted bool
}

// unreadable is how much no key opens.
func (r *rekeyReport) unreadable() int64 { return r.Tokens.Unreadable + r.Notifications.Unreadable }

// good says whether all is as it was asked for.
func (r *rekeyReport) good() bool { return (r.Done || r.dryRun) && r.unreadable() == 0 }

// print prints the report for people.
func (r *rekeyReport) print(w io.Writer) error {
	var b bytes.Buffer
	table := cli.NewTable(&b, "", "READ", "RE-SEALED", "NOT BY THE FIRST KEY", "UNREADABLE")
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	for name, c := range r.counts {
		table.Row(name, n(c.Read), n(c.Resealed), n(c.Stale), n(c.Unreadable))
	}
	table.Flush()
	if len(r.Unreadable) > 0 {
		fmt.Fprintln(&b, "\nNo key opens:")
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
	_, err := w.Write(b.Bytes())
	return err
}

// counts yields the counts, in order.
func (r *rekeyReport) counts(yield func(name string, c store.RekeyCount) bool) {
	_ = yield("access tokens", r.Tokens) && yield("notifications", r.Notifications)
}

func (r *rekeyReport) verdict() string {
	switch stale := r.Tokens.Stale + r.Notifications.Stale; {
	case r.interrupted:
		return fmt.Sprintf("Interrupted in pass %d. Run it again to go on.", r.Passes)
	case r.unreadable() > 0:
		return "What no key opens was left as it is. Is a key missing in database.encryption_key?"
	case r.Done:
		return "All is sealed by the first key. The others can be removed."
	case r.dryRun:
		return fmt.Sprintf("Nothing was changed. Without --dry-run, %d would be re-sealed.", stale)
	default:
		return "Some program still seals by another key, or keeps rows locked.\n" +
			"Does every instance run with the new key as the first? Then run it again."
	}
}

// printJSON prints the report for programs.
func (r *rekeyReport) printJSON(w io.Writer) error {
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
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		DryRun        bool         `json:"dry_run"`
		Done          bool         `json:"done"`
		Passes        int          `json:"passes"`
		AccessTokens  count        `json:"access_tokens"`
		Notifications count        `json:"notifications"`
		Unreadable    []unreadable `json:"unreadable"`
	}{r.dryRun, r.Done, r.Passes, count(r.Tokens), count(r.Notifications), list})
}
