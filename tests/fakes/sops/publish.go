// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package publish

import "github.com/getsops/sops/v3/keys"

type Destination interface {
	Upload([]byte, string) error
	UploadUnencrypted(map[string]interface{}, string) error
	Path(string) string
}

type leftOut struct{}

func (*leftOut) Upload([]byte, string) error                            { return keys.ErrLeftOut }
func (*leftOut) UploadUnencrypted(map[string]interface{}, string) error { return keys.ErrLeftOut }
func (*leftOut) Path(string) string                                     { return keys.ErrLeftOut.Error() }

type (
	S3Destination    struct{ leftOut }
	GCSDestination   struct{ leftOut }
	VaultDestination struct{ leftOut }
)

func NewS3Destination(_, _ string) *S3Destination                 { return &S3Destination{} }
func NewGCSDestination(_, _ string) *GCSDestination               { return &GCSDestination{} }
func NewVaultDestination(_, _, _ string, _ int) *VaultDestination { return &VaultDestination{} }
