variable "hub_role_arns" {
  description = "The hub's role: output role_arn of the module `hub`; of two hubs second.role_arn as well."
  type        = list(string)
  validation {
    condition     = length(var.hub_role_arns) > 0 && alltrue([for arn in var.hub_role_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]+$", arn))])
    error_message = "The ARN of a role, at least one."
  }
}

variable "external_id" {
  description = "A long random text, the same as in the hub's discovery_roles."
  type        = string
  validation {
    condition     = length(var.external_id) >= 16 && can(regex("^[A-Za-z0-9+=,.@:/-]+$", var.external_id))
    error_message = "Letters, digits and +=,.@:/-, at least 16."
  }
}

variable "regions" {
  description = "The regions in which spokes are looked for."
  type        = list(string)
  validation {
    condition     = length(var.regions) > 0
    error_message = "At least one region."
  }
}
