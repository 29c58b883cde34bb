package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// authorities has the certificate authorities of this machine. deploy/Dockerfile takes those of
// its build image, which is Debian's too.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

// imageConfig is what deploy/Dockerfile says about the image. A test compares them.
func imageConfig(version, commit string) v1.Config {
	return v1.Config{
		User:         "65532:65532",
		Env:          []string{"GLOTPOD_IDENT__HTTP__LISTEN=:8470"},
		ExposedPorts: map[string]struct{}{"8470": {}},
		Entrypoint:   []string{"/" + name},
		Cmd:          []string{"serve"},
		Labels: map[string]string{
			"org.opencontainers.image.title":       name,
			"org.opencontainers.image.description": "The identity service of GlotPod",
			"org.opencontainers.image.source":      "https://github.com/glotpod/ident",
			"org.opencontainers.image.licenses":    "MIT",
			"org.opencontainers.image.version":     version,
			"org.opencontainers.image.revision":    commit,
		},
	}
}

// writeImage writes the image for all architectures, as an archive in the layout of the Open
// Container Initiative. It has the same content as the image that deploy/Dockerfile makes, and
// needs no Docker to be made.
func (r *release) writeImage() error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range architectures {
		image, err := r.imageFor(arch)
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	// The name is what `docker load` and `podman load` call it.
	folder := filepath.Join(r.work, "image")
	named := layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": r.version, "io.containerd.image.name": "docker.io/library/" + name + ":" + r.version,
	})
	path, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(index, named); err != nil {
		return err
	}
	files := make(map[string]string)
	err = filepath.WalkDir(folder, func(from string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files[strings.TrimPrefix(filepath.ToSlash(from), filepath.ToSlash(folder)+"/")] = from
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.create(fmt.Sprintf("%s-%s-image.tar", name, r.version), func(w io.Writer) error { return writeTar(w, files, r.at) })
}

// imageFor returns the image for an architecture: one layer with the program and the certificate
// authorities.
func (r *release) imageFor(arch string) (v1.Image, error) {
	var content bytes.Buffer
	err := writeTar(&content, map[string]string{
		name:                                 r.program(arch),
		strings.TrimPrefix(authorities, "/"): authorities,
	}, r.at)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: v1.Time{Time: r.at}, Config: imageConfig(r.version, r.commit),
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: r.at}, CreatedBy: "make release"}})
}
