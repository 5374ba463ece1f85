//! Files as a disk with one partition that UEFI firmware reads: GPT, and FAT32 as the EFI system partition (UEFI 2.10, 5.3 and 13.3).
//!
//! The same files make the same disk to the byte: names of disk and partition are a hash of what is on them, and files have no date.

use std::io::{Cursor, Write};

use anyhow::{Context, Result};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use gptman::{GPT, GPTPartitionEntry};
use sha2::{Digest, Sha256};

const SECTOR: usize = 512;
/// Where the partition begins: where partitioning programs begin the first one.
const FIRST: usize = 2048;
/// Behind the partition: the second copy of the table takes 33 sectors.
const LAST: usize = 2048;
/// FAT32 has at least 65,525 clusters, and this many one-sector clusters are that and some more.
const MIN_PARTITION: usize = 40 << 20;
/// The EFI system partition's type, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, in the order of bytes on the disk.
const EFI_SYSTEM: [u8; 16] = [
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
];

/// A file of the partition.
pub struct File {
    /// Its folders and name, separated by `/`.
    pub path: &'static str,
    /// What is in it.
    pub contents: Vec<u8>,
}

/// The disk, as bytes.
///
/// # Errors
///
/// What cannot be written.
pub fn write(files: &[File]) -> Result<Vec<u8>> {
    let names = names(files);
    let volume = volume(files, names[2]).context("cannot make the file system")?;
    let sectors = volume.len() / SECTOR;
    let mut disk = Cursor::new(vec![0; (FIRST + sectors + LAST) * SECTOR]);
    partition(&mut disk, names, sectors).context("cannot make the partition table")?;
    let mut disk = disk.into_inner();
    disk[FIRST * SECTOR..(FIRST + sectors) * SECTOR].copy_from_slice(&volume);
    Ok(disk)
}

/// Names for the disk, the partition and the file system, from everything that is on them.
fn names(files: &[File]) -> [[u8; 16]; 3] {
    let mut hash = Sha256::new();
    for file in files {
        hash.update(file.path);
        hash.update((file.contents.len() as u64).to_le_bytes());
        hash.update(&file.contents);
    }
    let whole = hash.finalize();
    [0, 1, 2].map(|number| {
        let digest = Sha256::new().chain_update(whole).chain_update([number]).finalize();
        let mut name = [0; 16];
        name.copy_from_slice(&digest[..16]);
        // Version 8, of a kind of one's own (RFC 9562, 5.8), in GPT's order of bytes.
        name[7] = name[7] & 0x0f | 0x80;
        name[8] = name[8] & 0x3f | 0x80;
        name
    })
}

fn partition(disk: &mut Cursor<Vec<u8>>, names: [[u8; 16]; 3], sectors: usize) -> Result<()> {
    let mut table = GPT::new_from(disk, SECTOR as u64, names[0])?;
    table[1] = GPTPartitionEntry {
        partition_type_guid: EFI_SYSTEM,
        unique_partition_guid: names[1],
        starting_lba: FIRST as u64,
        ending_lba: (FIRST + sectors - 1) as u64,
        attribute_bits: 0,
        partition_name: "kpkeys".into(),
    };
    table.write_into(disk)?;
    GPT::write_protective_mbr_into(disk, SECTOR as u64)?;
    Ok(())
}

fn volume(files: &[File], name: [u8; 16]) -> Result<Vec<u8>> {
    let contents: usize = files.iter().map(|file| file.contents.len()).sum();
    let len = MIN_PARTITION + contents.next_multiple_of(1 << 20);
    let mut volume = Cursor::new(vec![0; len]);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_id(u32::from_le_bytes([name[0], name[1], name[2], name[3]]))
        .volume_label(*b"KPKEYS     ");
    fatfs::format_volume(&mut volume, options)?;
    {
        let system = FileSystem::new(&mut volume, FsOptions::new())?;
        for file in files {
            let mut folder = system.root_dir();
            let (folders, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
            for part in folders.split('/').filter(|part| !part.is_empty()) {
                folder = folder.create_dir(part)?;
            }
            let mut to = folder.create_file(name)?;
            to.write_all(&file.contents).with_context(|| file.path.to_owned())?;
        }
        system.unmount()?;
    }
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn files() -> Vec<File> {
        vec![
            File { path: "kpkeys.txt", contents: b"attack\n".to_vec() },
            File { path: "EFI/BOOT/BOOTX64.EFI", contents: vec![7; 100_000] },
            File { path: "EFI/kpkeys/x86_64.elf", contents: vec![9; 3 << 20] },
        ]
    }

    #[test]
    fn the_disk_has_the_files_where_firmware_looks() {
        let mut disk = Cursor::new(write(&files()).unwrap());
        let table = GPT::find_from(&mut disk).unwrap();
        assert_eq!(table[1].partition_type_guid, EFI_SYSTEM);
        assert_eq!(&disk.get_ref()[510..512], [0x55, 0xaa]);
        let range = table.get_partition_byte_range(1).unwrap();
        let volume = disk.get_ref()[*range.start() as usize..=*range.end() as usize].to_vec();
        let system = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        assert_eq!(system.fat_type(), FatType::Fat32);
        for file in files() {
            let mut contents = Vec::new();
            system.root_dir().open_file(file.path).unwrap().read_to_end(&mut contents).unwrap();
            assert_eq!(contents, file.contents, "{}", file.path);
        }
    }

    #[test]
    fn the_same_files_make_the_same_disk() {
        let disk = write(&files()).unwrap();
        assert_eq!(write(&files()).unwrap(), disk);
        let mut other = files();
        other[0].contents = b"tests\n".to_vec();
        assert_ne!(write(&other).unwrap(), disk);
    }
}
