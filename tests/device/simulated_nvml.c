/* A simulated libnvidia-ml: two cards, whose counters the environment sets. Only what agent/device/power_nvml.py and nvml.py call. */
#include <stdlib.h>
#include <string.h>

static int value(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

int nvmlInit_v2(void) { return value("SIMULATED_INIT", 0); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)value("SIMULATED_CARDS", 2);
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(size_t)(0x1000 + index);
    return index < (unsigned)value("SIMULATED_CARDS", 2) ? 0 : 2;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    strncpy(name, device == (void *)0x1000 ? "Simulated A" : "Simulated B", length);
    return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
    int base = value("SIMULATED_ENERGY_MJ", -1);
    *energy = 4000000000ULL + (unsigned long long)base + (device == (void *)0x1000 ? 0 : 500);
    return base < 0 ? 3 : value("SIMULATED_ERROR", 0);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *power) {
    *power = device == (void *)0x1000 ? 30000u : 12500u;
    return value("SIMULATED_POWER_ERROR", 0);
}
