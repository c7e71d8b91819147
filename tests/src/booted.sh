# Boots the system of this machine a second time, in namespaces of its own, and ends it when standard input ends. Run by
# booted.rs, as root, in a mount namespace of its own: what is mounted here is seen by nobody else and goes with the namespace.
# $1: an empty folder; $2: a name for the control group; $3: the capabilities that nobody has inside. The first line of output is the process that is number 1 inside.
set -eu
scratch=$1 name=$2 capabilities=$3
root=$scratch/root

for tool in chroot find findmnt ip mknod nsenter pivot_root runuser setpriv sudo systemctl unshare useradd; do
    command -v $tool > /dev/null || { echo "there is no \`$tool\`" >&2; exit 1; }
done
for systemd in /usr/lib/systemd/systemd /lib/systemd/systemd ''; do
    if [ -x "$systemd" ]; then break; fi
done
[ "$systemd" ] || { echo 'there is no systemd' >&2; exit 1; }
if id -u pi > /dev/null 2>&1; then echo 'there is a user `pi` already' >&2; exit 1; fi

# In memory, since a layer may not lie in another one, nor on another overlay.
mount -t tmpfs -o mode=755 pullback-booted "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$root" "$scratch/cgroups"
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" pullback-booted "$root"

# Not mounted anew where it is: that would change the options of the one that is there, for the whole machine.
cgroups=$(findmnt --noheadings --first-only --output TARGET --types cgroup2 || true)
if [ -z "$cgroups" ]; then
    cgroups=$scratch/cgroups
    mount -t cgroup2 cgroup2 "$cgroups"
fi
group=$cgroups/$name
mkdir "$group"

# However this ends. The last processes may still be on their way out.
clean() {
    tries=0
    until find "$group" -depth -type d -exec rmdir {} + 2> /dev/null || [ $tries -ge 100 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    umount --recursive --lazy "$scratch"
    rmdir "$scratch"
}
trap clean EXIT

# Nothing that was enabled here is started there.
find "$root/etc/systemd/system" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
chroot "$root" useradd --create-home --shell /bin/sh pi
echo 'pi ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/pi"
chmod 440 "$root/etc/sudoers.d/pi"
echo booted > "$root/etc/hostname"
echo '127.0.0.1 localhost booted' > "$root/etc/hosts"
rm -f "$root/etc/resolv.conf"

# Runs as number 1 of the new namespaces, and becomes systemd.
inner='
set -eu
# Number 1 reads its number outside, since /proc is still that of outside.
read -r pid rest < /proc/self/stat
cd "$root"
mount -t proc -o nosuid,noexec,nodev proc proc
# What can be set below /proc/sys and /sys holds for the whole machine.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro,nosuid,noexec,nodev proc/sys
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs sys
mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 sys/fs/cgroup
mount -t tmpfs -o nosuid,mode=755 tmpfs dev
# Nodes of its own: a mode set there is not set outside.
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for number in 0:stdin 1:stdout 2:stderr; do ln -s /proc/self/fd/${number%:*} dev/${number#*:}; done
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
ip link set lo up

# What is for hardware, reaches outside of namespaces, or makes files now and then.
mkdir -p run/systemd/system run/systemd/system-generators run/systemd/journald.conf.d
for unit in getty.target modprobe@.service systemd-modules-load.service systemd-sysctl.service systemd-udevd.service \
    systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-tmpfiles-clean.timer \
    dev-hugepages.mount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount; do
    ln -s /dev/null run/systemd/system/$unit
done
for generator in lib/systemd/system-generators/*; do
    ln -s /dev/null run/systemd/system-generators/${generator##*/}
done
printf "[Journal]\nStorage=volatile\n" > run/systemd/journald.conf.d/booted.conf

mkdir run/outside
pivot_root . run/outside
echo "$pid"
exec chroot . /bin/sh -c "
    umount -l /run/outside
    rmdir /run/outside
    exec env -i container=pullback-booted PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set $capabilities $systemd systemd.unit=multi-user.target" < /dev/null > /dev/null 2>&1
'
export root systemd inner group capabilities
unshare --mount --pid --net --uts --ipc --fork --kill-child \
    sh -c 'echo 0 > "$group/cgroup.procs"; exec unshare --cgroup sh -c "$inner"' > "$scratch/pid" < /dev/null &
namespaces=$!
while [ ! -s "$scratch/pid" ] && [ -e "/proc/$namespaces/ns" ]; do sleep 0.01; done
cat "$scratch/pid"

read -r end || true

# SIGRTMIN+4 asks systemd to stop all services and to end.
if read -r pid < "$scratch/pid" && kill -38 "$pid"; then
    tries=0
    while [ -e "/proc/$pid" ] && [ $tries -lt 1500 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
fi
kill -KILL $namespaces 2> /dev/null || true
wait $namespaces || true
