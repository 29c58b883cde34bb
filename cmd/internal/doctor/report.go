package doctor

import (
	"fmt"
	"strings"
)

// A level says whether a finding must be mended.
type level string

const (
	problem level = "problem" // must be mended
	advice  level = "advice"  // may be left as it is
)

// A finding is something that is wrong, or will be.
type finding struct {
	ID     string `json:"id"` // a key of kinds
	Level  level  `json:"level"`
	Seen   string `json:"seen"`
	Remedy string `json:"remedy"`
}

// An unchecked thing could not be looked at.
type unchecked struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// A report is what the command has found. Its JSON form is the output of doctor --json.
type report struct {
	Format    int         `json:"format"` // raised when a key is removed or changes its meaning
	Findings  []finding   `json:"findings"`
	Unchecked []unchecked `json:"unchecked"`
}

func newReport() *report {
	return &report{Format: 1, Findings: []finding{}, Unchecked: []unchecked{}}
}

// add adds a finding of a kind.
func (r *report) add(id, seen string, args ...any) {
	k := kinds[id]
	r.Findings = append(r.Findings, finding{id, k.level, inOneLine(fmt.Sprintf(seen, args...)), k.remedy})
}

// skip notes that something could not be looked at.
func (r *report) skip(what, why string, args ...any) {
	r.Unchecked = append(r.Unchecked, unchecked{what, inOneLine(fmt.Sprintf(why, args...))})
}

// inOneLine joins the lines of a text: some errors have several.
func inOneLine(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		switch before := b.String(); {
		case strings.HasSuffix(before, ":"):
			b.WriteByte(' ')
		case before != "":
			b.WriteString("; ")
		}
		b.WriteString(strings.TrimSpace(line))
	}
	return b.String()
}

func (r *report) hasProblem() bool {
	for _, f := range r.Findings {
		if f.Level == problem {
			return true
		}
	}
	return false
}
