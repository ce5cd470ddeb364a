package format

// Names that stand in the associated data of what has no name of its own in the
// store, or has several.
const (
	RootSealName      = "root"
	KeyExportSealName = "key export"
	HostCopySealName  = "host copy"
)

// SharedDomain is the domain of all metadata, and of the chunks of volumes that
// have none of their own.
const SharedDomain Domain = 0
