package config

import (
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
)

// Error is one fault in the settings. Its text never holds a secret.
type Error struct {
	// Key names the setting ("amqp.port"), or is "" where the fault is not one
	// setting's.
	Key string
	// File is where the fault stands, or "".
	File string
	// Line is the line in File, counted from 1, or 0 where it is not known.
	Line int
	// Variable is the environment variable with the fault, or "".
	Variable string
	// Err says what is wrong.
	Err error
}

// Error returns one line: where, which setting, and what is wrong.
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

// join returns faults as one error with a line for each, in the order in which
// an operator meets them, or nil if there are none.
func join(faults []*Error) error {
	slices.SortStableFunc(faults, func(a, b *Error) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Variable, b.Variable),
		)
	})
	errs := make([]error, len(faults))
	for i, fault := range faults {
		errs[i] = fault
	}
	return errors.Join(errs...)
}
