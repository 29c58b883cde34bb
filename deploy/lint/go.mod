// The linters of `make check`. They are a module of their own, so that the go.mod of
// the service does not list what they need.
module github.com/glotpod/ident/deploy/lint

go 1.26.0

tool honnef.co/go/tools/cmd/staticcheck

require (
	github.com/polyfloyd/go-errorlint v1.8.0
	golang.org/x/tools v0.52.0
)

require (
	github.com/BurntSushi/toml v1.6.0 // indirect
	golang.org/x/exp/typeparams v0.0.0-20261009195045-ca0d7ba23607 // indirect
	golang.org/x/mod v0.43.0 // indirect
	golang.org/x/sync v0.25.0 // indirect
	honnef.co/go/tools v0.8.2 // indirect
)
