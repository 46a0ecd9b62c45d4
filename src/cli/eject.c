/* nestor eject, nestor insert: the disc in a machine's CD drive. */
#include <limits.h>
#include <string.h>

#include "cli/vm.h"

const char help_eject[] =
	"Usage: nestor eject NAME [OPTIONS]\n"
	"\n"
	"Takes the disc out of the machine's CD drive. A guest that uses it has locked the drive: it is asked to\n"
	"let go, as by the button on a drive, and the command says so; try again then.\n"
	"\n"
	"  --drive DISK  which drive, where there are several: disk0, disk1 … (nestor info NAME block)\n"
	"  --force       whatever the guest says\n"
	"\n"
	"Example:\n"
	"  nestor eject web\n";

const char help_insert[] =
	"Usage: nestor insert NAME FILE [OPTIONS]\n"
	"\n"
	"Puts a disc into the machine's CD drive, in place of the one that is there.\n"
	"\n"
	"  --format FORMAT  raw, qcow2 …, where the file should not be asked\n"
	"  --drive DISK     which drive, where there are several: disk0, disk1 … (nestor info NAME block)\n"
	"  --force          also where the guest has locked the old disc\n"
	"\n"
	"Example:\n"
	"  nestor insert web second.iso\n";

static json_t *common(const struct vm_arguments *arguments)
{
	json_t *object = json_object();

	if (arguments->option[0].value)
		json_object_set_new(object, "device", json_string(arguments->option[0].value));
	if (arguments->option[1].value)
		json_object_set_new(object, "force", json_true());
	return object;
}

int command_eject(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--drive", .takes_value = true}, {.name = "--force"}}};
	int status = vm_parse(&arguments, "eject", help_eject, argc, argv, "the NAME of a machine", 1, 1);

	return status >= 0 ? status : vm_execute("eject", arguments.word[0], "eject", common(&arguments));
}

int command_insert(int argc, char **argv)
{
	struct vm_arguments arguments = {.option = {{.name = "--drive", .takes_value = true},
	                                            {.name = "--force"},
	                                            {.name = "--format", .takes_value = true}}};
	int status = vm_parse(&arguments, "insert", help_insert, argc, argv, "the NAME of a machine and a FILE", 2, 2);
	char path[2 * PATH_MAX];
	json_t *object;

	if (status < 0)
		status = vm_path("insert", arguments.word[1], path, sizeof(path));
	if (status >= 0)
		return status;
	object = common(&arguments);
	if (json_object_set_new(object, "filename", json_string(path))) {
		json_decref(object);
		return usage_error("insert", "%s: the name is not UTF-8", path);
	}
	if (arguments.option[2].value)
		json_object_set_new(object, "format", json_string(arguments.option[2].value));
	return vm_execute("insert", arguments.word[0], "blockdev-change-medium", object);
}
