package config

import (
	"errors"
	"fmt"
	"strings"
)

// sealed is a kind whose value may also be in a file of its own.
type sealed interface {
	kind
	// fromFile converts the content of the file to the value that package toml would return.
	fromFile(text string) any
}

// secret is a hidden string.
type secret struct{ into *Secret }

func (s secret) String() string { return "text" }

func (s secret) parse(text string) any { return text }

// fromFile removes one line break at the end, which editors add.
func (s secret) fromFile(text string) any {
	if line, ok := strings.CutSuffix(text, "\n"); ok {
		return strings.TrimSuffix(line, "\r")
	}
	return text
}

func (s secret) put(value any) error {
	text, err := plainText(value)
	if err != nil {
		return err
	}
	*s.into = Hide(text)
	return nil
}

// keyList is one encryption key or a list of them.
type keyList struct{ into *[]Key }

func (k keyList) String() string { return "a key, or a list of keys" }

func (k keyList) parse(text string) any { return split(text, ",") }

func (k keyList) fromFile(text string) any { return split(strings.TrimSpace(text), "\n") }

func (k keyList) put(value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	if len(list) == 0 {
		return errors.New("must have at least one key")
	}
	keys := make([]Key, len(list))
	var faults []string
	for i, member := range list {
		text, err := plainText(member)
		if err == nil {
			keys[i], err = ParseKey(text)
		}
		if err != nil && len(list) > 1 {
			err = fmt.Errorf("key %d of %d %w", i+1, len(list), err)
		}
		if err != nil {
			faults = append(faults, err.Error())
		}
	}
	if faults != nil {
		return errors.New(strings.Join(faults, "; "))
	}
	*k.into = keys
	return nil
}

// split splits text into a list as package toml would return it.
func split(text, separator string) []any {
	var list []any
	for part := range strings.SplitSeq(text, separator) {
		list = append(list, part)
	}
	return list
}
