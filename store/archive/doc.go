// Package archive reads and writes the format in which users leave one database
// and enter another: JSON values, one per line (NDJSON), in UTF-8.
//
//	{"format":"glotpod.ident users","version":1,"tokens":"sealed","last_id":4}
//	{"id":1,"name":"Ada","email":"ada@example.org","github":{"id":7,"access_token":"gAAAAA…"}}
//	{"id":4,"name":"Eve","email":"eve@example.org","picture_url":"…","facebook":{"id":9,"access_token":"gAAAAA…"}}
//	{"end":true,"users":2}
//
// The first line says what the file is. Where it has "tokens":"omit", no account
// has an access_token; else each has one, sealed as it is in the database, and
// never in clear. last_id is the greatest user id there was when the export began:
// so it is known from the first line on which ids are taken. Where there is an
// "after_id", the users up to that id were left out.
//
// Then comes a line for each user, by id as exported, in any order to import. It
// is a user as the service shows it, and holds to the same rules. It has each field
// under exactly its name, and once.
//
// The last line says how many user lines there are. A file that has none, or
// another number, is not whole. Empty lines do not count, and what follows may be
// another archive: files may be put one behind the other.
package archive
