package archive

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// A Writer writes an archive. What it has written reaches the file by Flush or
// Close.
type Writer struct {
	buffer  *bufio.Writer
	encoder *json.Encoder
	users   int64
}

// NewWriter begins an archive, whose header need not say its format and version.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	a := Continue(w, 0)
	h.Format, h.Version = Format, Version
	return a, a.write(h)
}

// Continue goes on with an archive that has its first line and so many users.
func Continue(w io.Writer, users int64) *Writer {
	buffer := bufio.NewWriterSize(w, 256<<10)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	return &Writer{buffer: buffer, encoder: encoder, users: users}
}

// Add writes a user.
func (a *Writer) Add(u *User) error {
	a.users++
	return a.write(u)
}

// Users is how many users the archive has so far.
func (a *Writer) Users() int64 { return a.users }

// Flush hands over all that was written. A reader sees whole lines.
func (a *Writer) Flush() error {
	if err := a.buffer.Flush(); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}

// Close writes the last line.
func (a *Writer) Close() error {
	if err := a.write(End{End: true, Users: a.users}); err != nil {
		return err
	}
	return a.Flush()
}

func (a *Writer) write(line any) error {
	if err := a.encoder.Encode(line); err != nil {
		return fmt.Errorf("writing the archive: %w", err)
	}
	return nil
}
