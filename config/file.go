package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// readFile takes the settings from the TOML file at path. It records unknown keys as
// errors, and returns an error if the file cannot be read at all.
func (l *loader) readFile(path string) error {
	content, err := readSmall(path)
	if err != nil {
		return &Error{File: path, Err: fmt.Errorf("cannot read the settings: %w", err)}
	}
	var top map[string]toml.Primitive
	md, err := toml.Decode(content, &top)
	if err != nil {
		e, _ := errors.AsType[toml.ParseError](err)
		return &Error{Key: e.LastKey, File: path, Line: e.Position.Line, Err: errors.New(syntaxError(e))}
	}
	l.file = path
	l.walk(&md, nil, top)
	return nil
}

// syntaxError describes why a file is not TOML. It uses the message of package toml only
// if that quotes nothing from the file: the quoted text may be a secret without its quotation marks.
func syntaxError(e toml.ParseError) string {
	if strings.ContainsAny(e.Message, "\"'`0123456789") {
		return "not valid TOML here: text needs quotation marks, and a key or table may occur only once"
	}
	return "not valid TOML: " + e.Message
}

// walk takes the settings from the table at path.
func (l *loader) walk(md *toml.MetaData, path toml.Key, table map[string]toml.Primitive) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		path := append(slices.Clone(path), key)
		name := path.String() // quotes keys with dots in them
		value, line := decodeValue(md, table[key])
		_, isTable := value.(map[string]any)
		i := slices.IndexFunc(l.settings, func(s setting) bool { return s.name == name })
		switch at := (origin{file: l.file, line: line}); {
		case i >= 0:
			l.take(l.settings[i], given{value, at})
		case !l.isSection(name):
			l.fail(name, at, l.unknownKey(name))
		case !isTable:
			l.fail(name, at, fmt.Errorf("is a section, so it must be a table, not %s", typeName(value)))
		default:
			var inner map[string]toml.Primitive
			_ = md.PrimitiveDecode(table[key], &inner) // A table always decodes.
			l.walk(md, path, inner)
		}
	}
}

// unknownKey returns the error for a name that is neither a setting nor a section.
func (l *loader) unknownKey(name string) error {
	known := l.names()
	for _, s := range l.settings {
		if section := s.section(); !slices.Contains(known, section) {
			known = append(known, section)
		}
	}
	if meant := Nearest(name, known); meant != "" {
		return fmt.Errorf("unknown key; did you mean %s?", meant)
	}
	return errors.New("unknown key")
}

// isSection reports whether name is the section of any setting.
func (l *loader) isSection(name string) bool {
	return slices.ContainsFunc(l.settings, func(s setting) bool { return strings.HasPrefix(s.name, name+".") })
}

// decodeValue returns a value as package toml decodes it, and its line.
func decodeValue(md *toml.MetaData, p toml.Primitive) (value any, line int) {
	var l lineFinder
	e, _ := errors.AsType[toml.ParseError](md.PrimitiveDecode(p, &l))
	return l.value, e.Position.Line
}

// lineFinder records the value that it is decoded from. Then it returns an error on
// purpose, because package toml reports the line of a value only in an error.
type lineFinder struct{ value any }

func (l *lineFinder) UnmarshalTOML(value any) error {
	l.value = value
	return errors.New("seen")
}
