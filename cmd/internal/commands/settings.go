package commands

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/glotpod/ident/cmd/internal/cli"
	"github.com/glotpod/ident/config"
)

const settingsAbout = `Describes all settings, or those of one section, or one: its default, which values are
valid, what it is for, and its environment variable. name is as in TOML, with the
section (amqp.port), or the environment variable.

The JSON document is a list. The keys of each setting are name, variable, default
("required" or "none" if there is none), value (which are valid) and help.`

// A shownSetting is a setting, in JSON.
type shownSetting struct {
	Name     string `json:"name"`
	Variable string `json:"variable"`
	Default  string `json:"default"`
	Value    string `json:"value"`
	Help     string `json:"help"`
}

func newSettings(env *cli.Env) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:               "settings [name]",
		Short:             "describe the settings, or one",
		Long:              settingsAbout,
		ValidArgsFunction: cli.Complete(settingNames()),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := findSettings(args)
			switch {
			case err != nil:
				return err
			case asJSON:
				return env.PrintJSON(found)
			}
			return printSettings(env, found)
		},
	}
	cli.JSONFlag(c, &asJSON)
	return c
}

func settingNames() (names []string) {
	for _, e := range config.Reference() {
		names = append(names, e.Key)
	}
	return names
}

// findSettings returns the settings that the arguments name.
func findSettings(args []string) (found []shownSetting, err error) {
	for _, e := range config.Reference() {
		if len(args) == 0 || args[0] == e.Key || args[0] == e.Variable || strings.HasPrefix(e.Key, args[0]+".") {
			found = append(found, shownSetting{e.Key, e.Variable, plain(e.Default), e.Value, plain(e.Help)})
		}
	}
	if len(found) == 0 {
		return nil, cli.Usagef("no setting %q%s", args[0], cli.DidYouMean(args[0], settingNames()))
	}
	return found, nil
}

var markdownLink = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)

// plain returns the text of Markdown without quotes of code and targets of links.
func plain(markdown string) string {
	return strings.ReplaceAll(markdownLink.ReplaceAllString(markdown, "$1"), "`", "")
}

func printSettings(env *cli.Env, settings []shownSetting) error {
	var b strings.Builder
	for i, s := range settings {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(s.text())
	}
	_, err := fmt.Fprint(env.Stdout, b.String())
	return err
}

func (s shownSetting) text() string {
	return fmt.Sprintf("%s\n%s\n%s\n%s\n%s\n", s.Name,
		cli.Indent("variable: "+s.Variable), cli.Indent("default: "+s.Default), cli.Indent("value: "+s.Value), cli.Indent(s.Help))
}

// manualSections returns the part of the manual page that describes the settings.
func manualSections() []cli.Section {
	all, err := findSettings(nil)
	if err != nil {
		panic(err) // there are settings
	}
	var texts []string
	for _, s := range all {
		texts = append(texts, s.text())
	}
	return []cli.Section{{Title: "SETTINGS", Text: strings.Join(texts, "\n")}}
}
