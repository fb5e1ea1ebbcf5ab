"""Python for the inside of a guest: makes a tree of everything awkward, and describes a tree.

Sent to `python3 -` as text: it may use the standard library and nothing of ours.
"""

from __future__ import annotations

LARGE_MIB = 300

MAKE = f"""
import os, shutil, socket, stat
os.umask(0)
os.remove("/etc/issue")                          # whiteout
shutil.rmtree("/etc/apt"); os.mkdir("/etc/apt")  # opaque directory
open("/etc/apt/new", "w").write("new")
os.mkdir("/w", 0o755); os.chdir("/w")
def put(path, data=b"x", mode=0o644, uid=0, gid=0):
    with open(path, "wb") as f: f.write(data)
    os.chown(path, uid, gid); os.chmod(path, mode)
put("plain"); put("empty", b""); put("secret", b"s", 0o000); put("setuid", b"u", 0o6755)
put("owned", b"o", 0o640, 12345, 4000000000)
os.mkdir("sticky", 0o1777); os.mkdir("empty-dir", 0o700); os.mkdir("gone"); os.rmdir("gone")
put("first", b"linked"); os.link("first", "second"); os.mkdir("d"); os.link("first", "d/third")
os.link("/etc/passwd", "passwd")                 # one end lies in a layer below
os.symlink("plain", "relative"); os.symlink("/etc/passwd", "absolute")
os.symlink("nowhere/at/all", "dangling"); os.symlink(b"\\xff\\xfe", "to-bytes")
os.symlink("t" * 3000, "long-target")
odd = b"not-utf8-\\xff\\xfe", "neu-\\u00e9\\u20ac\\U0001f333", "a\\nb\\tc\\\\ d"
for name in (*odd, "-rf", " ", "n" * 255):
    put(name)
deep = "/".join(["e" * 250] * 12)
os.makedirs(deep); put(deep + "/leaf", b"deep")
os.mkfifo("fifo"); os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.mknod("loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
socket.socket(socket.AF_UNIX).bind("socket")
os.setxattr("plain", "user.note", b"a\\0b\\xff"); os.setxattr("sticky", "user.dir", b"")
capability = bytes.fromhex("0100000200040000000000000000000000000000")
os.setxattr("setuid", "security.capability", capability)
os.setxattr("plain", "trusted.t", b"t" * 1000)
with open("sparse", "wb") as f:
    for at in (0, 5_000_000, 63_999_990):
        f.seek(at); f.write(b"0123456789")
    f.truncate(100_000_000)
block = os.urandom(1 << 20)
with open("large", "wb") as f:
    for i in range({LARGE_MIB}):
        f.write(block if i % 3 else bytes(1 << 20))
for top, directories, files in os.walk(b"/w", topdown=False):
    for name in files + directories:
        os.utime(os.path.join(top, name), (1, 1_000_000_000 + len(name)), follow_symlinks=False)
"""

DESCRIBE = """
import json, os, stat, zlib
found, names = {}, {}
for top, directories, files in os.walk(b"/w"):
    for name in sorted(directories + files):
        path = os.path.join(top, name)
        s = os.lstat(path)
        entry = {"mode": s.st_mode, "uid": s.st_uid, "gid": s.st_gid, "mtime": int(s.st_mtime)}
        if not stat.S_ISDIR(s.st_mode):
            entry["nlink"] = s.st_nlink
            names.setdefault((s.st_dev, s.st_ino), []).append(path)
            entry["same"] = names[s.st_dev, s.st_ino][0].hex()
        if stat.S_ISREG(s.st_mode):
            crc = 0
            with open(path, "rb") as f:
                while data := f.read(1 << 20):
                    crc = zlib.crc32(data, crc)
            entry |= {"size": s.st_size, "crc": crc}
        if stat.S_ISLNK(s.st_mode):
            entry["target"] = os.readlink(path).hex()
        if stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
            entry["device"] = [os.major(s.st_rdev), os.minor(s.st_rdev)]
        entry["xattrs"] = {
            name: os.getxattr(path, name, follow_symlinks=False).hex()
            for name in os.listxattr(path, follow_symlinks=False)
        }
        found[path.hex()] = entry
print(json.dumps({
    "tree": found, "issue": os.path.exists("/etc/issue"), "apt": os.listdir("/etc/apt"),
    "passwd_links": os.stat("/etc/passwd").st_nlink,
}))
"""
