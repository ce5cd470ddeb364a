package format

// SharedDomain is the domain of all metadata, and of the chunks of volumes that
// have none of their own.
const SharedDomain Domain = 0
