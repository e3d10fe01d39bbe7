// Copyright (c) 2026, the alwayson.hermes authors
// GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

package pgp

import (
	"time"

	"github.com/getsops/sops/v3/keys"
)

const KeyTypeIdentifier = "pgp"

type MasterKey struct {
	keys.LeftOut
	Fingerprint, EncryptedKey string
	CreationDate              time.Time
}

func NewMasterKeyFromFingerprint(string) *MasterKey       { return &MasterKey{} }
func MasterKeysFromFingerprintString(string) []*MasterKey { return nil }
