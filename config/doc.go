// Package config reads and checks the settings of glotpod-ident and returns them as plain
// values.
//
// # Where settings come from
//
// Each setting has a name made of its section and key, such as "amqp.port".
// Its value comes from one of these sources; a later one overrides an earlier one:
//
//   - the default, if there is one;
//   - the TOML file that the environment variable GLOTPOD_IDENT_SETTINGS names;
//   - the setting's own environment variable, such as GLOTPOD_IDENT__AMQP__PORT. Text
//     has no quotation marks there, and a list is separated by commas.
//
// A secret can also be in a file of its own. A setting with the suffix "_file" is the
// path of that file. The settings file may have the secret or its "_file", but not both,
// and so may the environment. Either one in the environment overrides both in the
// settings file. An empty "_file" means none. A relative path starts at the working directory.
//
// A secret in a file of its own or in the environment may begin with a UTF-8 byte order
// mark and end with a line break. Both are removed. All other space belongs to a password.
//
// The table in settings.go is the only list of the settings. Loading, variable names,
// error texts and the reference are derived from it.
//
// # What it promises
//
// [Load] returns either complete and consistent settings, or all errors that it found.
// Each is an [*Error] with the setting and its file and line, or its variable. Load has
// read the files that settings name (secrets, CA certificates, client certificates) and
// could use them. It does not check whether RabbitMQ and Postgres can be reached. Settings
// that are used, and should be corrected, are in [Config].Warnings.
//
// Secrets are [Hidden]: they are not visible in errors, nor in a [Config] that is printed,
// logged or encoded.
package config

import "embed"

// Documents are Markdown files about the package, by their names in its folder.
//
//go:embed SETTINGS.md
var Documents embed.FS
