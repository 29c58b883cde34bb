package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/glotpod/ident/store/archive"
)

// An exportFile is written under another name until it is whole. Nobody else may
// read it: it tells who the users are.
type exportFile struct {
	path    string
	partial *os.File
	archive *archive.Writer
	lastID  int64 // of the last user in it
	whole   bool  // nothing is left to be written
}

// openExportFile begins a file or, with resume, goes on with one that was broken
// off.
func openExportFile(o exportOptions, lastID int64) (*exportFile, error) {
	flag := os.O_RDWR | os.O_CREATE
	if !o.resume {
		flag |= os.O_TRUNC
	}
	// A link might lead to a file of others.
	partial, err := os.OpenFile(o.output+".partial", flag|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the file to write: %w", err)
	}
	f := &exportFile{path: o.output, partial: partial, lastID: o.afterID}
	if err := partial.Chmod(0o600); err != nil { // it may have been there
		f.close()
		return nil, fmt.Errorf("keeping the file from others: %w", err)
	}
	if err := f.resume(o.header(lastID)); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// resume finds out what is there, and gets ready to write behind it; where nothing is,
// it begins with h.
func (f *exportFile) resume(h archive.Header) error {
	found, err := archive.Inspect(f.partial)
	if err != nil {
		return fmt.Errorf("going on with %s: %w", f.partial.Name(), err)
	}
	if found.Size > 0 && found.Header.Tokens != h.Tokens {
		return fmt.Errorf("%s was begun with --tokens %s", f.partial.Name(), found.Header.Tokens)
	}
	if err := f.partial.Truncate(found.Size); err != nil {
		return fmt.Errorf("cutting off half a line: %w", err)
	}
	if _, err := f.partial.Seek(found.Size, io.SeekStart); err != nil {
		return fmt.Errorf("going on with %s: %w", f.partial.Name(), err)
	}
	if found.Size == 0 {
		f.archive, err = archive.NewWriter(f.partial, h)
		return err
	}
	f.archive, f.lastID, f.whole = archive.Continue(f.partial, found.Users), found.LastID, found.Ended
	return nil
}

// finish puts the file in its place, where it replaces an older one.
func (f *exportFile) finish() error {
	if err := f.partial.Sync(); err != nil {
		return fmt.Errorf("writing %s: %w", f.partial.Name(), err)
	}
	if err := f.close(); err != nil {
		return fmt.Errorf("writing %s: %w", f.partial.Name(), err)
	}
	if err := os.Rename(f.partial.Name(), f.path); err != nil {
		return fmt.Errorf("putting the file in its place: %w", err)
	}
	return nil
}

// close may be called more than once.
func (f *exportFile) close() error {
	if err := f.partial.Close(); !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}
