package lvm

// What only this package's tests call from outside.
var (
	ParseStatus = parseStatus
	ParseReport = parseReport
	Dashed      = dashed
)
