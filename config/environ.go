package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SettingsVariable is the environment variable that names the settings file.
const SettingsVariable = "GLOTPOD_IDENT_SETTINGS"

// variablePrefix is the prefix of the settings' own environment variables.
const variablePrefix = "GLOTPOD_IDENT__"

// lookup returns the value of the variable called name, or "" if it is not set. If it
// occurs twice, the last one counts.
func lookup(environ []string, name string) string {
	var value string
	for _, entry := range environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// readEnviron takes the settings from environment variables. They override those of the
// settings file.
func (l *loader) readEnviron(environ []string) {
	for _, entry := range environ {
		variable, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(variable, variablePrefix) {
			continue
		}
		at := origin{variable: variable}
		i := slices.IndexFunc(l.settings, func(s setting) bool { return s.variable() == variable })
		if i < 0 {
			name := strings.ReplaceAll(strings.ToLower(variable[len(variablePrefix):]), "__", ".")
			l.fail(name, at, l.unknownVariable(name))
			continue
		}
		l.dropOtherForm(l.settings[i].name, text)
		l.take(l.settings[i], given{l.settings[i].kind.parse(text), at})
	}
}

// dropOtherForm removes the secret that the settings file has if the environment has the
// secret's file, and the file if the environment has the secret.
func (l *loader) dropOtherForm(name, text string) {
	other, isFile := strings.CutSuffix(name, fileSuffix)
	if isFile && text == "" {
		return
	}
	if !isFile {
		other += fileSuffix
	}
	if l.given[other].variable == "" {
		delete(l.given, other)
	}
}

// unknownVariable returns the error for a variable that belongs to no setting.
func (l *loader) unknownVariable(name string) error {
	if meant := Nearest(name, l.names()); meant != "" {
		return fmt.Errorf("unknown variable; did you mean %s?", setting{name: meant}.variable())
	}
	return errors.New("unknown variable")
}
