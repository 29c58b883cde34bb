package config

import (
	"fmt"
	"io"
)

// redacted is shown in place of a hidden value.
const redacted = "[redacted]"

// Hidden holds a value that only Reveal shows. fmt, log, slog, zap and the
// standard encoders show "[redacted]", or nothing for T's zero value.
//
// The zero Hidden holds T's zero value. Two Hiddens do not compare with ==;
// reflect.DeepEqual compares what they hold.
type Hidden[T comparable] struct {
	// value has two pointers because of unexported fields. In those, fmt cannot call
	// the methods of a Hidden and prints its content. fmt follows one pointer,
	// but not two.
	value **T
}

// Secret is a hidden string, such as a password.
type Secret = Hidden[string]

// Hide wraps value.
func Hide[T comparable](value T) Hidden[T] {
	var zero T
	if value == zero {
		return Hidden[T]{}
	}
	p := &value
	return Hidden[T]{&p}
}

// Reveal returns the hidden value. Do not print, log or store it.
func (h Hidden[T]) Reveal() T {
	if h.value == nil {
		var zero T
		return zero
	}
	return **h.value
}

// String returns "[redacted]", or "" for T's zero value.
func (h Hidden[T]) String() string {
	if h.value == nil {
		return ""
	}
	return redacted
}

// Format prints what String returns, whatever the verb.
func (h Hidden[T]) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, h.String()) }

// MarshalText returns what String returns. JSON, XML and TOML encode that.
func (h Hidden[T]) MarshalText() ([]byte, error) { return []byte(h.String()), nil }
