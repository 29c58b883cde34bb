package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// A Table aligns its columns when it is flushed.
type Table struct {
	w *tabwriter.Writer
}

// NewTable returns a table with a first row of column titles.
func NewTable(w io.Writer, columns ...string) Table {
	t := Table{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
	t.Row(columns...)
	return t
}

// Row adds a row.
func (t Table) Row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

// Flush writes all rows.
func (t Table) Flush() error { return t.w.Flush() }
