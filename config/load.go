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

// Load returns the settings from environ, which has the form of [os.Environ], and from
// the settings file that environ names. It reads that file, the files that settings name,
// and nothing else. The error is an [*Error] or joins several.
func Load(environ []string) (*Config, error) {
	return load(environ)
}

// LoadCommand is Load for a program that serves nothing over HTTP. It leaves Config.HTTP zero:
// these settings are not checked, and their files are not read.
func LoadCommand(environ []string) (*Config, error) {
	return load(environ, "http.")
}

// LoadClient is Load for a program that only sends requests to the service. It leaves
// Config.Database and Config.HTTP zero: these settings are not required, not checked, and
// their files are not read.
func LoadClient(environ []string) (*Config, error) {
	return load(environ, "database.", "http.")
}

// load is Load without the settings of the skipped sections.
func load(environ []string, skipped ...string) (*Config, error) {
	c := new(Config)
	l := loader{settings: c.settings(), given: make(map[string]given)}
	if path := lookup(environ, SettingsVariable); path != "" {
		if err := l.readFile(path); err != nil {
			return nil, err
		}
	}
	l.readEnviron(environ)
	l.settings = slices.DeleteFunc(l.settings, func(s setting) bool {
		return slices.ContainsFunc(skipped, func(section string) bool { return strings.HasPrefix(s.name, section) })
	})
	l.openSecretFiles()
	l.assign()
	l.check(c)
	if l.faults != nil {
		return nil, join(l.faults)
	}
	c.Warnings = l.warnings
	return c, nil
}

// A loader collects the values from all sources, then assigns them to the fields. It
// collects all errors.
type loader struct {
	settings []setting
	given    map[string]given // by the setting's name
	file     string           // the settings file, or ""
	faults   []*Error
	warnings []*Error
}

// given is a value and where it was set.
type given struct {
	value any // as TOML holds it
	origin
}

// origin is where a value was set: a line of a file, or a variable.
type origin struct {
	file     string
	line     int
	variable string
}

// fail records an error of the setting called name, set at o.
func (l *loader) fail(name string, o origin, err error) {
	l.faults = append(l.faults, newError(name, o, err))
}

// warn records a warning about the setting called name, set at o. "" is none.
func (l *loader) warn(name string, o origin, warning string) {
	if warning != "" {
		l.warnings = append(l.warnings, newError(name, o, errors.New(warning)))
	}
}

func newError(name string, o origin, err error) *Error {
	return &Error{Key: name, File: o.file, Line: o.line, Variable: o.variable, Err: err}
}

// valid reports whether no setting whose name starts with prefix has an error.
func (l *loader) valid(prefix string) bool {
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

// take records the value of s. An empty path of a secret's file counts as not set.
func (l *loader) take(s setting, g given) {
	if _, ok := s.kind.(fileOf); ok && g.value == "" {
		delete(l.given, s.name)
		return
	}
	l.given[s.name] = g
}

// openSecretFiles reads the secrets whose settings name a file.
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
			continue // assign reports the wrong type.
		}
		text, err := readSmall(name)
		if err != nil {
			l.fail(s.name+fileSuffix, path.origin, fmt.Errorf("cannot read %s: %w", name, err))
			continue
		}
		l.given[s.name] = given{kind.fromFile(text), origin{file: name}}
	}
}

// assign stores all values, or the defaults, in their fields.
func (l *loader) assign() {
	for _, s := range l.settings {
		g, ok := l.given[s.name]
		switch {
		case ok:
		case s.initial != "":
			g.value = s.kind.parse(s.initial)
		case s.required && l.valid(s.name):
			l.fail(s.name, origin{file: l.file}, errors.New("is required"))
			continue
		default:
			continue
		}
		if err := s.kind.put(g.value); err != nil {
			l.fail(s.name, g.origin, err)
			continue
		}
		if k, ok := s.kind.(keyList); ok {
			l.warn(s.name, g.origin, k.warning(g.value))
		}
	}
}

// maxFileBytes is the maximum size of a file with settings or a secret.
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

// withoutPath removes the path from err, because the caller adds it.
func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}
