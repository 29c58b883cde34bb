package config

import (
	"fmt"
	"io"
)

// redacted stands for a hidden value wherever that is shown.
const redacted = "[redacted]"

// Hidden holds a value that only Reveal shows. fmt, log, slog, zap and the
// standard encoders show "[redacted]", or nothing for T's zero value.
//
// The zero Hidden holds T's zero value. Two Hiddens do not compare with ==;
// reflect.DeepEqual compares what they hold.
type Hidden[T comparable] struct {
	// value is behind pointers for where a Hidden is in an unexported field:
	// there, fmt cannot call methods and prints what it finds. It follows one
	// pointer if the verb does not fit, but not two.
	value **T
}

// Secret is a hidden text, such as a password.
type Secret = Hidden[string]

// Hide returns value hidden.
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
