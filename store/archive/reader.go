package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// A Reader reads archives from any source. It uses memory for one line.
type Reader struct {
	from   *bufio.Reader
	limits Limits
	line   []byte
	number int64 // of the line

	inside bool // between a header and its end
	header Header
	lines  int64 // of users in the archive so far
}

// Limits bound what a Reader accepts, in bytes.
type Limits struct {
	Line  int
	Field int // of each field. An encrypted token counts as the token in it
}

// NewReader returns a Reader that refuses users beyond the limits.
func NewReader(r io.Reader, l Limits) *Reader {
	return &Reader{from: bufio.NewReaderSize(r, 64<<10), limits: l}
}

// A LineError says that a line is not a user. It does not quote the line. The next line may
// be a user.
type LineError struct {
	Line   int64
	Reason string
}

func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// An ArchiveError says that the input is not an archive or not a complete one. Nothing more
// can be read.
type ArchiveError struct {
	Line   int64
	Reason string
}

func (e *ArchiveError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Line returns the number of the last line that was read, from 1 on.
func (r *Reader) Line() int64 { return r.number }

// Header returns the first line of the archive that contains the last user.
func (r *Reader) Header() Header { return r.header }

// Next reads the next user. The error is a *LineError if a line is not a user: then Next may
// be called again. It is io.EOF after a complete archive, an *ArchiveError, or the error of the
// underlying reader.
func (r *Reader) Next() (*User, error) {
	for {
		fits, err := r.readLine()
		switch {
		case errors.Is(err, io.EOF) && r.inside:
			return nil, &ArchiveError{r.number, "the file ends before its last line, which says how many users there are: it is not whole"}
		case errors.Is(err, io.EOF) && r.number == 0:
			return nil, &ArchiveError{r.number, "the file is empty"}
		case err != nil:
			return nil, err
		case !fits && !r.inside:
			return nil, &ArchiveError{r.number, notAnArchive}
		case !fits:
			r.lines++
			return nil, r.refuse(fmt.Sprintf("longer than %d bytes", r.limits.Line))
		}
		text := bytes.TrimSpace(r.line)
		switch {
		case len(text) == 0:
		case !r.inside:
			if err := r.begin(text); err != nil {
				return nil, err
			}
		default:
			if end, ok := parseEnd(text); ok {
				if err := r.end(end); err != nil {
					return nil, err
				}
				continue
			}
			r.lines++
			u, reason := parseUser(text, r.header.Tokens, r.limits.Field)
			if reason != "" {
				return nil, r.refuse(reason)
			}
			return u, nil
		}
	}
}

const notAnArchive = "this is not what glotpod-ident export writes: no line with the format and its version"

func (r *Reader) begin(text []byte) error {
	h, ok := parseHeader(text)
	switch {
	case !ok || h.Format != Format:
		return &ArchiveError{r.number, notAnArchive}
	case h.Version != Version:
		return &ArchiveError{r.number, fmt.Sprintf("the file has version %d of the format, and this program reads version %d", h.Version, Version)}
	case h.Tokens != Sealed && h.Tokens != Omit:
		return &ArchiveError{r.number, "the file does not say whether it holds access tokens"}
	case h.LastID < 0:
		return &ArchiveError{r.number, "last_id is no user id"}
	}
	r.inside, r.header, r.lines = true, h, 0
	return nil
}

func (r *Reader) end(e End) error {
	r.inside = false
	if e.Users != r.lines {
		return &ArchiveError{r.number, fmt.Sprintf("the file has %d users and should have %d: it is not whole", r.lines, e.Users)}
	}
	return nil
}

func (r *Reader) refuse(reason string) error { return &LineError{r.number, reason} }

// readLine reads the next line. If the line is too long, it skips it and returns false.
func (r *Reader) readLine() (fits bool, err error) {
	r.line, fits = r.line[:0], true
	for begun := false; ; begun = true {
		part, err := r.from.ReadSlice('\n')
		if len(part) > 0 && !begun {
			r.number++
		}
		if fits = fits && len(r.line)+len(part) <= r.limits.Line; fits {
			r.line = append(r.line, part...)
		}
		switch {
		case err == nil, err == io.EOF && (begun || len(part) > 0):
			return fits, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return false, err
		}
	}
}
