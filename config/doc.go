// Package config reads the settings of glotpod-ident, checks them all, and
// hands them down as plain values.
//
// # Where settings come from
//
// Each setting has a name made of its section and key, such as "amqp.port".
// Its value is, in rising order of precedence:
//
//   - its default, if it has one;
//   - what the TOML file holds that the environment variable
//     GLOTPOD_IDENT_SETTINGS names, if it names one;
//   - its own environment variable: GLOTPOD_IDENT__AMQP__PORT. There, text is
//     given bare, and a list has commas between its members.
//
// A secret can also be kept in a file of its own, which a setting with the
// suffix "_file" names. Of the two forms one source gives at most one; if the
// environment gives either, it replaces both of the settings file. An empty
// "_file" is the same as none. All paths are the operating system's: relative
// ones start from the working directory.
//
// The table in settings.go is the one place that lists the settings. Loading,
// variable names, error texts and the printed reference come from it.
//
// # What it promises
//
// [Load] returns either settings that are complete and consistent, or every
// fault that it found, each an [*Error] that names the setting and the file,
// line or variable where it stands. The files that settings name (secrets, CA
// certificates, client certificates) have been read and were usable; whether
// RabbitMQ and Postgres can be reached is for others to find out.
//
// Secrets are [Hidden]: they show neither in errors nor wherever a [Config] is
// printed, logged or encoded.
package config
