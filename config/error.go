package config

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// An Error is one error in the settings, or a warning about one. Its text never contains
// a secret.
type Error struct {
	// Key is the name of the setting ("amqp.port"), "" if the error does not belong
	// to one setting.
	Key string
	// File is the file with the error, or "".
	File string
	// Line is the line in File, counted from 1, or 0 if it is not known.
	Line int
	// Variable is the environment variable with the error, or "".
	Variable string
	// Err describes what is wrong.
	Err error
}

// Error returns one line: the place, the setting, and what is wrong.
func (e *Error) Error() string {
	var parts []string
	if e.File != "" {
		where := e.File
		if e.Line > 0 {
			where += ":" + strconv.Itoa(e.Line)
		}
		parts = append(parts, where)
	}
	if e.Variable != "" {
		parts = append(parts, e.Variable)
	}
	if e.Key != "" {
		parts = append(parts, e.Key)
	}
	return strings.Join(append(parts, e.Err.Error()), ": ")
}

func (e *Error) Unwrap() error { return e.Err }

// join returns all errors as one, with a line for each, sorted by file, line and variable.
// It returns nil if there are none.
func join(all []*Error) error {
	slices.SortStableFunc(all, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Variable, b.Variable),
		)
	})
	errs := make([]error, len(all))
	for i, e := range all {
		errs[i] = e
	}
	return errors.Join(errs...)
}
