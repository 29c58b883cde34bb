package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeMaterials writes a software bill of materials (CycloneDX) for each architecture: the modules
// that the program contains, as it tells itself.
func (r *release) writeMaterials() error {
	for _, arch := range architectures {
		info, err := buildinfo.ReadFile(r.program(arch))
		if err != nil {
			return err
		}
		bom := cdx.NewBOM()
		program := cdx.Component{
			BOMRef: packageURL(info.Main.Path, r.version), Type: cdx.ComponentTypeApplication, Name: name, Version: r.version,
			PackageURL: packageURL(info.Main.Path, r.version), Licenses: &cdx.Licenses{{License: &cdx.License{ID: "MIT"}}},
		}
		bom.Metadata = &cdx.Metadata{Timestamp: r.at.Format(time.RFC3339), Component: &program}
		components := []cdx.Component{{
			BOMRef: packageURL("std", info.GoVersion[2:]), Type: cdx.ComponentTypeLibrary, Name: "std", Version: info.GoVersion[2:],
			PackageURL: packageURL("std", info.GoVersion[2:]), Description: "the standard library of Go",
		}}
		for _, module := range info.Deps {
			for module.Replace != nil {
				module = module.Replace
			}
			url := packageURL(module.Path, module.Version)
			components = append(components, cdx.Component{
				BOMRef: url, Type: cdx.ComponentTypeLibrary, Name: module.Path, Version: module.Version, PackageURL: url,
				Properties: &[]cdx.Property{{Name: "go:sum", Value: module.Sum}},
			})
		}
		bom.Components = &components
		err = r.create(fmt.Sprintf("%s-%s-linux-%s.cdx.json", name, r.version, arch), func(w io.Writer) error {
			return cdx.NewBOMEncoder(w, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func packageURL(module, version string) string { return "pkg:golang/" + module + "@" + version }
