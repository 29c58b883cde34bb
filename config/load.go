package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// Load returns the settings that environ, in the form of [os.Environ], gives
// itself and by the file that it names. It reads that file and those that
// settings name, and nothing else. The error is an [*Error] or joins several.
func Load(environ []string) (*Config, error) {
	return load(environ, "")
}

// LoadClient is Load for a program that only speaks to the service, through the
// broker. It leaves Config.Database zero: values there are neither checked nor
// required, and their files are not read.
func LoadClient(environ []string) (*Config, error) {
	return load(environ, "database.")
}

// load leaves out the settings whose names start with skipped, if that is not
// "".
func load(environ []string, skipped string) (*Config, error) {
	c := new(Config)
	l := loader{settings: c.settings(), given: make(map[string]given)}
	if path := lookup(environ, SettingsVariable); path != "" {
		if err := l.readFile(path); err != nil {
			return nil, err
		}
	}
	l.readEnviron(environ)
	if skipped != "" {
		l.settings = slices.DeleteFunc(l.settings, func(s setting) bool { return strings.HasPrefix(s.name, skipped) })
	}
	l.openSecretFiles()
	l.assign()
	l.check(c)
	if l.faults != nil {
		return nil, join(l.faults)
	}
	return c, nil
}

// loader gathers what is given, then assigns it, and notes each fault on the
// way.
type loader struct {
	settings []setting
	given    map[string]given // by the setting's name
	file     string           // the settings file, or ""
	faults   []*Error
}

// given is a value with the place where it stands.
type given struct {
	value any // as TOML holds it
	origin
}

// origin is a line of a file, or a variable.
type origin struct {
	file     string
	line     int
	variable string
}

// fail notes that the setting called name is wrong as it stands at o.
func (l *loader) fail(name string, o origin, err error) {
	l.faults = append(l.faults, &Error{Key: name, File: o.file, Line: o.line, Variable: o.variable, Err: err})
}

// sound reports whether no setting is wrong whose name starts with prefix.
func (l *loader) sound(prefix string) bool {
	return !slices.ContainsFunc(l.faults, func(e *Error) bool { return strings.HasPrefix(e.Key, prefix) })
}

// names returns the names of all settings.
func (l *loader) names() []string {
	names := make([]string, len(l.settings))
	for i, s := range l.settings {
		names[i] = s.name
	}
	return names
}

// take notes the value of s. An empty path of a secret's file is none.
func (l *loader) take(s setting, g given) {
	if _, ok := s.kind.(fileOf); ok && g.value == "" {
		delete(l.given, s.name)
		return
	}
	l.given[s.name] = g
}

// openSecretFiles replaces what names a secret's file by the secret.
func (l *loader) openSecretFiles() {
	for _, s := range l.settings {
		kind, ok := s.kind.(sealed)
		if !ok {
			continue
		}
		path, ok := l.given[s.name+fileSuffix]
		if !ok {
			continue
		}
		if _, both := l.given[s.name]; both {
			l.fail(s.name+fileSuffix, path.origin, fmt.Errorf("cannot be given together with %s", s.name))
			continue
		}
		name, ok := path.value.(string)
		if !ok {
			continue // assign says so.
		}
		text, err := readSmall(name)
		if err != nil {
			l.fail(s.name+fileSuffix, path.origin, fmt.Errorf("cannot read %s: %w", name, err))
			continue
		}
		l.given[s.name] = given{kind.fromFile(text), origin{file: name}}
	}
}

// assign puts all values, given or default, into their fields.
func (l *loader) assign() {
	for _, s := range l.settings {
		g, ok := l.given[s.name]
		switch {
		case ok:
		case s.initial != "":
			g.value = s.kind.parse(s.initial)
		case s.required && l.sound(s.name):
			l.fail(s.name, origin{file: l.file}, errors.New("is required"))
			continue
		default:
			continue
		}
		if err := s.kind.put(g.value); err != nil {
			l.fail(s.name, g.origin, err)
		}
	}
}

// maxFileBytes bounds the files that are read whole.
const maxFileBytes = 64 << 10

// readSmall returns the content of a file of at most maxFileBytes. Its error
// does not name the file.
func readSmall(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", withoutPath(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return "", withoutPath(err)
	}
	if len(b) > maxFileBytes {
		return "", fmt.Errorf("it is larger than %d bytes", maxFileBytes)
	}
	return string(b), nil
}

// withoutPath takes the path out of err, where the caller names it.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
