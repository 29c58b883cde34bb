// Package archive reads and writes the format in which users are exported and imported:
// JSON values, one per line (NDJSON), in UTF-8.
//
//	{"format":"glotpod.ident users","version":1,"tokens":"sealed","last_id":4}
//	{"id":1,"name":"Ada","email":"ada@example.org","github":{"id":7,"access_token":"gAAAAA…"},"sequence":3}
//	{"id":4,"name":"Eve","email":"eve@example.org","picture_url":"…","facebook":{"id":9,"access_token":"gAAAAA…"}}
//	{"end":true,"users":2}
//
// The first line identifies the format. With "tokens":"omit" no account has an
// access_token. Otherwise each account has one, encrypted as in the database and never in
// clear. The field last_id is the greatest user id when the export began. So an import
// knows from the first line on which ids are in use. If there is an "after_id", users up to that
// id were left out.
//
// Then each user has a line. An export writes them by id; an import accepts any order. A
// line contains a user as the service shows it, and the same rules apply. Each field appears
// once, under exactly its name. The field sequence is the number of the user's last change. It
// is missing if the service has not changed the user.
//
// The last line contains the number of users. If it is missing or the number differs, the file
// is incomplete. Empty lines are ignored. Another archive may follow: archives may be
// concatenated.
package archive
