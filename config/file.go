package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// readFile takes the settings that the TOML file at path gives. It notes keys
// that are not settings, and returns an error if the file cannot be read at all.
func (l *loader) readFile(path string) error {
	content, err := readSmall(path)
	if err != nil {
		return &Error{File: path, Err: fmt.Errorf("cannot read the settings: %w", err)}
	}
	var top map[string]toml.Primitive
	md, err := toml.Decode(content, &top)
	if err != nil {
		e, _ := errors.AsType[toml.ParseError](err)
		return &Error{Key: e.LastKey, File: path, Line: e.Position.Line, Err: errors.New(syntaxFault(e))}
	}
	l.file = path
	l.walk(&md, nil, top)
	return nil
}

// syntaxFault says what is wrong with a text that is not TOML. It passes on
// toml's words only if they quote nothing: what they quote may be a secret that
// lacks its quotation marks.
func syntaxFault(e toml.ParseError) string {
	if strings.ContainsAny(e.Message, "\"'`0123456789") {
		return "not valid TOML here: text needs quotation marks, and a key or table can stand only once"
	}
	return "not valid TOML: " + e.Message
}

// walk takes the settings in a table of the file, which stands at path.
func (l *loader) walk(md *toml.MetaData, path toml.Key, table map[string]toml.Primitive) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		path := append(slices.Clone(path), key)
		name := path.String() // quotes keys with dots in them
		value, line := look(md, table[key])
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

// unknownKey says that there is no setting or section called name.
func (l *loader) unknownKey(name string) error {
	known := l.names()
	for _, s := range l.settings {
		if section := s.section(); !slices.Contains(known, section) {
			known = append(known, section)
		}
	}
	if meant := nearest(name, known); meant != "" {
		return fmt.Errorf("unknown key; did you mean %s?", meant)
	}
	return errors.New("unknown key")
}

// isSection reports whether name is the section of any setting.
func (l *loader) isSection(name string) bool {
	return slices.ContainsFunc(l.settings, func(s setting) bool { return strings.HasPrefix(s.name, name+".") })
}

// look returns a value as TOML holds it, and the line on which it stands.
func look(md *toml.MetaData, p toml.Primitive) (value any, line int) {
	var l lens
	e, _ := errors.AsType[toml.ParseError](md.PrimitiveDecode(p, &l))
	return l.value, e.Position.Line
}

// lens sees the value that it is decoded from. Then it fails, since toml tells
// the line of a value only in an error.
type lens struct{ value any }

func (l *lens) UnmarshalTOML(value any) error {
	l.value = value
	return errors.New("seen")
}
